"""Export of a training run: against a real MLflow server where one is installed, and what is refused everywhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from inference.errors import TrainingError
from inference.training import config as configuration
from inference.training import exporting, mlflow, services
from inference.training.tasks import export_run
from tests.factories import ProjectFactory
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
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a real MLflow tracking server of this test."""
    if PROGRAM is None:
        pytest.skip("MLflow is not installed; MLFLOW_PROGRAM may name its program")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path / "mlflow.log").open("wb")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    process = subprocess.Popen(
        [PROGRAM, "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store, "--workers", "1"],
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
    assert again.result == {"experiment": job.result["experiment"], "mlflow_run": number, "already_there": True}
    assert len(requests.post(
        f"{server}/api/2.0/mlflow/runs/search", json={"experiment_ids": [job.result["experiment"]]}, timeout=10
    ).json()["runs"]) == 1  # fmt: skip


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
