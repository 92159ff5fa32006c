"""`train`, `run_model`, `cross_validate` and `evaluate` as a user types them, with a real worker."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from inference.evaluation.models import Evaluation
from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.training.models import CrossValidation
from tests.factories import ProjectFactory
from tests.inference.models_factory import ball_cohort, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media", "broker")]

TOML = """
name = "balls"
[[preprocessing]]
name = "normalise"
[network]
channels = [8, 16]
strides = [2]
residual_units = 1
[training]
patch = [12, 16, 20]
batch_size = 2
samples_per_case = 4
epochs = 20
validate_every = 10
learning_rate = 0.02
averaging = 0.9
"""


def run(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def json_of(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json")[0])


def test_train_run_and_evaluate(start_worker, tmp_path, media):
    project = ProjectFactory(slug="balls")
    ball_cohort(project, 8)
    config = tmp_path / "balls.toml"
    config.write_text(TOML)
    start_worker(queues="train,infer", include="inference.training.tasks", MEDIA_ROOT=str(media))

    trained = json_of("train", str(config), "--cohort", "Balls", "--project", "balls", "--wait")
    assert (trained["state"], trained["model"], trained["number"]) == ("succeeded", "balls", 1)
    assert trained["validation_dice"]["Ball"]["n"] == len(trained["validation_dice"]["Ball"]["per_case"]) == 2

    ran, progress = run("run_model", "balls:1", "--cohort", "Balls", "--split", "test", "--wait", "--json")
    assert json.loads(ran)["stored"] == 2
    assert "succeeded" in progress

    found = json_of("evaluate", "balls:1", "--cohort", "Balls", "--wait")
    assert (found["n"], found["split"], found["overlap"]["patients"]) == (2, "test", 0)
    for name in ("Ball", "Dim ball"):
        figure = found["structures"][name]
        per_case = [case["structures"][name]["dice"] for case in found["cases"]]
        assert figure["mean"] == pytest.approx(sum(per_case) / len(per_case))
        assert figure["mean"] > 0.7
        assert {"lower", "upper", "n", "method"} <= set(figure)
    assert Evaluation.objects.get(pk=found["evaluation"]).summary == found["summary"]
    assert Prediction.objects.count() == 2

    words, _ = run("evaluate", str(trained["version"]), "--cohort", "Balls", "--wait")
    assert "n = 2 (BCa bootstrap over 2 patients, 10000 resamples)" in words
    assert "not defined: all 2 cases hold this structure" in words
    assert "not a medical device" in words


def test_cross_validate_prints_structures_and_rounds(start_worker, tmp_path, media):
    ball_cohort(ProjectFactory(slug="balls"), 4, folds=2, fractions={"test": 0})
    config = tmp_path / "balls.toml"
    config.write_text(TOML)
    start_worker(queues="train", include="inference.training.tasks", MEDIA_ROOT=str(media))
    changes = ["--set", "training.epochs=1", "--set", "description='Finds balls'"]
    words, _ = run("cross_validate", str(config), *changes, "--cohort", "Balls", "--project", "balls", "--wait")
    used = CrossValidation.objects.get().config
    assert (used["training"]["epochs"], used["description"]) == (1, "Finds balls")
    assert "fold 2: 2 training, 2 test cases" in words
    assert "n = 4 (BCa bootstrap over 4 patients, 10000 resamples)" in words
    assert words.count("HD95") == 2
    assert "not a medical device" in words


def test_without_wait_the_job_is_queued():
    project = ProjectFactory(slug="one")
    ball_cohort(project, 2, freeze=False)
    version = threshold_version(project)
    found = json_of("run_model", str(version.pk), "--cohort", "Balls", "--priority", "low")
    job = Job.objects.get(pk=found["job"])
    assert (job.state, job.priority) == ("queued", Job.Priority.LOW)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nobody:1", "--cohort", "Balls"], "no model version 'nobody:1'"),
        (["evaluate", "threshold:1", "--cohort", "Nobody"], "no cohort 'Nobody'"),
        (["evaluate", "threshold:1", "--cohort", "Balls", "--split", "test"], "not frozen"),
        (["run_model", "threshold:1"], "cohort or studies"),
        (["run_model", "threshold:1", "--study", "1.2.3"], "1 of the studies are not in the model's project"),
        (["train", "/nowhere.toml"], "cannot be read"),
    ],
)
def test_mistakes_are_told_in_words(arguments, words):
    project = ProjectFactory(slug="one")
    ball_cohort(project, 2, freeze=False)
    threshold_version(project)
    with pytest.raises(CommandError, match=words):
        run(*arguments)
    assert not Job.objects.exists()
