"""Export of a training run: against a real MLflow server where one is installed, and what is refused everywhere."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from django.utils import timezone

from inference.errors import TrainingError
from inference.evaluation.models import Evaluation
from inference.jobs.models import JobLogLine
from inference.registry import card_text
from inference.training import artefacts, exporting, mlflow, services
from inference.training import config as configuration
from inference.training.tasks import export_run
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.inference.models_factory import CONFIG, ball_cohort
from tests.jobs import execute

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]

# MLflow is no dependency, not even of the tests: its server brings along more packages than the portal has.
PROGRAM = os.environ.get("MLFLOW_PROGRAM") or shutil.which("mlflow")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a real MLflow tracking server of this test; a parameter is one more option of its program."""
    if PROGRAM is None:
        pytest.skip("MLflow is not installed; MLFLOW_PROGRAM may name its program")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path / "mlflow.log").open("wb")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    process = subprocess.Popen(
        [PROGRAM, "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store, "--workers", "1",
         *([request.param] if hasattr(request, "param") else [])],
        cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, (tmp_path / "mlflow.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "MLflow did not start"
            try:
                if requests.get(f"{address}/health", timeout=1).ok:
                    break
            except requests.RequestException:
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture
def trained(run_job):
    project = ProjectFactory(slug="brain")
    cohort, _ = ball_cohort(project, 8, name="Curie family")
    config = {**CONFIG, "description": "For the balls of Curie"}
    run = services.start(project=project, config=config, cohort=cohort, by=None)
    assert run_job(run.job).state == "succeeded"
    run.refresh_from_db()
    return run


def test_a_run_stands_in_mlflow_once_with_parameters_curves_and_digests(server, trained, settings):
    settings.MLFLOW_TRACKING_URI = server
    job = exporting.start(trained, by=None)
    execute(job, export_run.body)
    job.refresh_from_db()
    assert job.state == "succeeded", job.cause
    number = job.result["mlflow_run"]

    def ask(path: str, **query: str) -> dict:
        answer = requests.get(f"{server}/api/2.0/mlflow/{path}", params=query, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    found = ask("runs/get", run_id=number)["run"]
    parameters = {row["key"]: row["value"] for row in found["data"]["params"]}
    tags = {row["key"]: row["value"] for row in found["data"]["tags"]}
    assert found["info"]["status"] == "FINISHED"
    assert (parameters["training.learning_rate"], parameters["training.seed"]) == ("0.02", "5")
    assert (parameters["network.name"], parameters["preprocessing.2.name"]) == ("unet", "normalise")
    assert tags["readroom.version_digest"] == trained.version.digest
    assert tags["readroom.cohort_digest"] == trained.cohort_digest
    assert "not a medical device" in tags["readroom.use"]
    curve = ask("metrics/get-history", run_id=number, metric_key="train_loss")["metrics"]
    ours = trained.job.metrics.filter(name="train_loss").values_list("step", "value")
    assert sorted((int(row.get("step", 0)), row["value"]) for row in curve) == sorted(ours)
    figures = {row["key"]: row["value"] for row in found["data"]["metrics"]}
    told = trained.job.result["validation_dice"]["Ball"]
    assert figures["validation_dice/Ball/estimate"] == pytest.approx(told["estimate"])
    assert figures["validation_dice/Ball/n"] == told["n"]
    assert "Curie" not in str(found)  # neither the cohort's name nor the description

    again = exporting.start(trained, by=None)
    execute(again, export_run.body)
    again.refresh_from_db()
    assert again.result == {**job.result, "already_there": True}
    assert len(requests.post(
        f"{server}/api/2.0/mlflow/runs/search", json={"experiment_ids": [job.result["experiment"]]}, timeout=10
    ).json()["runs"]) == 1  # fmt: skip


def test_its_files_are_artefacts_that_hold_nobody_s_identity(server, trained, settings):
    settings.MLFLOW_TRACKING_URI = server
    job = exporting.start(trained, by=member(trained.project, Role.ENGINEER, username="dr-lovelace"))
    execute(job, export_run.body)
    job.refresh_from_db()
    assert job.state == "succeeded", job.cause
    assert (job.result["artefacts"], job.result["without_artefacts"]) == (list(artefacts.NAMES), "")
    answer = requests.get(
        f"{server}/api/2.0/mlflow/artifacts/list", params={"run_id": job.result["mlflow_run"]}, timeout=10
    ).json()
    assert [file["path"] for file in answer["files"]] == list(artefacts.NAMES)
    root = answer["root_uri"].removeprefix("mlflow-artifacts:/")
    for name, content in artefacts.of(trained, by=job.created_by).items():
        stored = requests.get(f"{server}/api/2.0/mlflow-artifacts/artifacts/{root}/{name}", timeout=10)
        assert stored.content == content, name


@pytest.mark.parametrize("server", ["--no-serve-artifacts"], indirect=True)
def test_a_server_that_takes_no_files_still_gets_parameters_and_figures_and_the_log_says_what_is_missing(
    server, trained, settings
):
    settings.MLFLOW_TRACKING_URI = server
    job = exporting.start(trained, by=member(trained.project, Role.ENGINEER))
    execute(job, export_run.body)
    job.refresh_from_db()
    assert job.state == "succeeded", job.cause
    assert job.result["artefacts"] == []
    said = job.log.get(level="warning").text
    assert all(name in said for name in artefacts.NAMES)
    assert "--serve-artifacts" in said
    found = requests.get(
        f"{server}/api/2.0/mlflow/runs/get", params={"run_id": job.result["mlflow_run"]}, timeout=10
    ).json()["run"]
    assert {row["key"]: row["value"] for row in found["data"]["params"]}["training.seed"] == "5"
    assert "validation_dice/Ball/estimate" in {row["key"] for row in found["data"]["metrics"]}


def test_what_leaves_as_files_is_whole_and_names_nobody(trained):
    """Somebody wrote a patient's name and ID into the card, and the log names the cohort."""
    user = member(trained.project, Role.ENGINEER, username="dr-lovelace")
    texts = {
        "intended_use": "Balls.",
        "limits": "Fails on Ball^3, on Ball 3 and on Curie family-3; Dice 0.5.",
        "users": "Physicists.",
    }
    card_text.write(trained.version, texts, base=0, by=user)
    evaluation = Evaluation.objects.create(
        version=trained.version, reference=trained.reference, split="test", finished_at=timezone.now(), summary={}
    )
    JobLogLine.objects.create(job=trained.job, attempt=1, text="Loaded the cases of Curie family")
    files = {name: content.decode() for name, content in artefacts.of(trained, by=user).items()}
    assert tuple(files) == artefacts.NAMES

    config = configuration.parse(files["configuration.toml"])
    assert config == {**trained.config, "description": "", "data": {**trained.config["data"], "cohort": ""}}
    manifest = json.loads(files["manifest.json"])
    for key in ("network", "preprocessing", "labels", "output", "inference"):
        assert manifest[key] == trained.version.manifest[key]
    assert manifest["training"]["cohort_digest"] == trained.cohort_digest
    assert manifest["training"]["cohort"] == f"cohort {trained.reference.cohort_id}"
    card = json.loads(files["model_card.json"])
    assert card["use"] in files["model_card.md"]
    assert card["results"][0]["id"] == evaluation.pk
    limits = next(section["text"] for section in card["sections"] if section["key"] == "limits")
    assert limits == "Fails on [patient], on [patient] and on [patient]; Dice 0.5."
    assert "info: Trained 2 epochs" in files["log.txt"]
    assert f"Loaded the cases of cohort {trained.reference.cohort_id}" in files["log.txt"]
    for name, content in files.items():
        for private in ("Ball^", "Curie", "lovelace", str(trained.reference), "/media"):
            assert private not in content, (name, private)
    assert set(artefacts.of(trained, by=None)) == set(files) - {"model_card.json", "model_card.md"}


def test_without_a_server_or_with_one_that_does_not_answer_the_job_says_what_to_do(trained, settings):
    with pytest.raises(TrainingError, match="No MLflow server is set up"):
        exporting.start(trained, by=None)
    settings.MLFLOW_TRACKING_URI = f"http://127.0.0.1:{free_port()}"
    job = exporting.start(trained, by=None)
    execute(job, export_run.body)
    job.refresh_from_db()
    assert (job.state, job.cause) == ("failed", "The MLflow server does not answer (ConnectionError).")
    assert "MLFLOW_TRACKING_URI" in job.next_step


def test_parameters_are_flat_and_without_free_texts():
    config = configuration.check({**CONFIG, "description": "x", "data": {"cohort": "Curie", "structures": ["Ball"]}})
    found = mlflow.flat(config)
    assert found["network.parameters.channels"] == "[4, 8]"
    assert found["data.structures"] == "['Ball']"
    assert not {"name", "description", "data.cohort", "training.weights"} & set(found)
    assert mlflow.key_of("val_dice/Left lung (α)") == "val_dice/Left lung ___"
