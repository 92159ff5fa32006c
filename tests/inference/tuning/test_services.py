"""Searches as jobs: on validation patients alone, interrupted, with settings that cannot be trained."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from inference.errors import TrainingError
from inference.jobs import services as jobs
from inference.jobs.models import Job
from inference.tuning import services
from inference.tuning.models import SettingsSearch, Trial
from studies.cohorts.models import Split
from tests.factories import ProjectFactory
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.class_factory import shape_cohort
from tests.inference.models_factory import CONFIG, ball_cohort

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]

SEARCH = {
    "trials": 3,
    "space": {"training": {"learning_rate": {"low": 1e-4, "high": 5e-2, "log": True}, "loss": ["dice", "dice_ce"]}},
}


DETECTOR = {
    **CONFIG,
    "name": "ball-detector",
    "task": "detection",
    "network": {"channels": [4, 4, 4, 4], "pyramid": 8, "depth": 1},
    "training": {
        "patch": [16, 16, 32],
        "batch_size": 2,
        "samples_per_case": 2,
        "epochs": 6,
        "validate_every": 3,
        "learning_rate": 0.02,
        "seed": 5,
    },
}


def started(project, cohort, **changes) -> SettingsSearch:
    return services.start(project=project, config=CONFIG, search={**SEARCH, **changes}, cohort=cohort, by=None)


def test_a_search_tries_settings_on_validation_patients_and_the_best_ones_can_be_trained(run_job):
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 8)
    search = started(project, cohort)
    job = run_job(search.job)
    assert job.state == "succeeded", job.cause
    search.refresh_from_db()
    trials = list(search.trials.all())
    assert [trial.number for trial in trials] == [1, 2, 3]
    assert {trial.state for trial in trials} <= {Trial.State.COMPLETE, Trial.State.PRUNED}
    validation = reference.case_labels.filter(case__cohort_patient__split=Split.VALIDATION).count()
    best = services.best(search)
    assert best is not None
    for figure in best.figures.values():
        assert figure["n"] == validation == 2
        assert figure["method"].startswith("BCa bootstrap")
    assert best.value == pytest.approx(sum(f["estimate"] for f in best.figures.values()) / 2)
    assert best.value == max(trial.value for trial in trials if trial.state == "complete")
    assert job.result["best"] == best.number
    assert not services.folder_of(search).exists()  # checkpoints of trials are not kept

    run = services.train(job, by=None)
    assert run.config["training"]["learning_rate"] == best.values["training.learning_rate"]
    assert run.config["training"]["loss"] == best.values["training.loss"]
    assert run.reference == reference
    assert run.job.state == "queued"


def test_a_search_whose_worker_is_killed_goes_on_with_its_trial_and_ends_as_an_unbroken_one(
    run_job, start_worker, media: Path
):
    """kill -9 in the second trial, after its first epochs."""
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    long = {**CONFIG, "training": {**CONFIG["training"], "epochs": 12}}
    whole, broken = (
        services.start(project=project, config=long, search={**SEARCH, "prune": False}, cohort=cohort, by=None)
        for _ in range(2)
    )
    assert run_job(whole.job).state == "succeeded"
    victim = start_worker(queues="train", include="inference.tuning.tasks", MEDIA_ROOT=str(media))
    deadline = time.monotonic() + 120
    while not broken.trials.filter(number=2, epochs__gte=2).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.kill()
    assert broken.trials.get(number=2).state == Trial.State.RUNNING
    Job.objects.filter(pk=broken.job_id).update(lease_until="2020-01-01T00:00:00Z")
    assert jobs.reap()["requeued"] == 1
    job = run_job(Job.objects.get(pk=broken.job_id))
    assert (job.state, job.attempt) == ("succeeded", 2), job.cause
    assert job.log.filter(text__startswith="Trial 2: Going on from the checkpoint").exists()
    fields = ("number", "state", "values", "value", "curve", "epochs")
    assert list(broken.trials.values_list(*fields)) == list(whole.trials.values_list(*fields))


def test_a_setting_that_cannot_be_trained_is_a_failed_trial_with_words_and_the_search_goes_on(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    # The larger patch needs some hundred gigabytes for each step.
    search = services.start(
        project=project,
        config={**CONFIG, "network": {**CONFIG["network"], "channels": [64, 128]}},
        search={"trials": 3, "space": {"training.patch": [[12, 16, 20], [1024, 1024, 1024]]}},
        cohort=cohort,
        by=None,
    )
    job = run_job(search.job)
    assert job.state == "succeeded", job.cause
    failed = search.trials.filter(state=Trial.State.FAILED)
    assert failed.exists()
    assert {tuple(trial.values["training.patch"]) for trial in failed} == {(1024, 1024, 1024)}
    assert "GB of memory" in failed[0].cause
    assert "smaller training.batch_size" in failed[0].next_step
    assert search.trials.filter(state=Trial.State.COMPLETE).exists()
    assert services.best(search).values == {"training.patch": [12, 16, 20]}


def test_a_classifier_is_searched_by_its_auc(run_job):
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 16)
    config = {**SHAPES, "training": {**SHAPES["training"], "epochs": 3}}
    search = services.start(
        project=project,
        config=config,
        search={"trials": 2, "space": {"training.learning_rate": [0.02, 1e-7]}},
        cohort=cohort,
        by=None,
    )
    job = run_job(search.job)
    assert job.state == "succeeded", job.cause
    best = services.best(search)
    assert set(best.figures) == {"disc", "bar"}
    assert all(0 <= figure["estimate"] <= 1 and figure["n"] == 4 for figure in best.figures.values())


def test_a_detector_is_searched_by_its_froc_score_which_is_that_of_a_run_with_the_same_settings(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    search = services.start(
        project=project,
        config=DETECTOR,
        search={"trials": 3, "space": {"training.learning_rate": [0.02, 1e-7], "network.depth": [1, 2]}},
        cohort=cohort,
        by=None,
    )
    job = run_job(search.job)
    assert job.state == "succeeded", job.cause
    assert {trial.state for trial in search.trials.all()} <= {Trial.State.COMPLETE, Trial.State.PRUNED}
    best = services.best(search)
    assert set(best.figures) == {"Ball", "Dim ball"}
    for figure in best.figures.values():
        assert 0 <= figure["lower"] <= figure["estimate"] <= figure["upper"] <= 1
        assert figure["n"] == 2
        assert figure["method"].startswith("percentile bootstrap over 2 patients")
        assert "reason" not in figure
    assert best.value == pytest.approx(sum(figure["estimate"] for figure in best.figures.values()) / 2)
    assert set(best.curve) == {"3", "6"}, "a validation after every third of six epochs"
    run = services.train(job, by=None)
    assert run_job(run.job).state == "succeeded"
    told = Job.objects.get(pk=run.job_id).result["validation_froc"]
    assert told == {name: pytest.approx(figure["estimate"]) for name, figure in best.figures.items()}


def test_the_learning_rate_job_answers_with_its_curve_and_the_rate_can_be_trained_with(run_job):
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 8)
    job = run_job(services.start_range_test(project=project, config=CONFIG, cohort=cohort, by=None))
    assert job.state == "succeeded", job.cause
    assert job.result["suggested"]
    assert len(job.result["rates"]) == len(job.result["smoothed"]) > 12
    run = services.train(job, by=None)
    assert run.config["training"]["learning_rate"] == job.result["suggested"]
    assert run.reference == reference


def test_what_cannot_be_searched_is_refused_in_words():
    project = ProjectFactory()
    loose, _ = ball_cohort(project, 4, name="Loose", freeze=False)
    with pytest.raises(TrainingError, match="not frozen"):
        started(project, loose)
    cohort, reference = ball_cohort(project, 4)
    for entry in reference.case_labels.filter(case__cohort_patient__split=Split.VALIDATION):
        entry.delete()
    with pytest.raises(TrainingError, match="nothing for a validation patient"):
        started(project, cohort)
    with pytest.raises(TrainingError, match="has no learning rate"):
        services.start_range_test(
            project=project,
            config={**SHAPES, "training": {**SHAPES["training"], "strategy": "frozen", "weights": "backbone.pth"}},
            cohort=cohort,
            by=None,
        )


def test_test_patients_are_never_read(run_job, media: Path):
    """Their files are taken away; a search that touched one would fail."""
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    for case in cohort.cases.filter(cohort_patient__split=Split.TEST):
        for instance in case.image.instances.all():
            (media / instance.file).unlink()
    search = started(project, cohort, trials=1)
    job = run_job(search.job)
    assert job.state == "succeeded", job.cause


def test_the_commands_start_what_the_services_start(media: Path, tmp_path: Path, broker):
    project = ProjectFactory(slug="balls")
    ball_cohort(project, 4)
    file = tmp_path / "search.toml"
    file.write_text('name = "balls"\n[network]\nchannels = [4, 8]\nstrides = [2]\n[training]\npatch = [12, 16, 20]\n')
    out = io.StringIO()
    call_command("find_learning_rate", str(file), "--cohort", "Balls", "--project", "balls", "--json", stdout=out)
    assert Job.objects.get(pk=json.loads(out.getvalue())["job"]).kind == "find_learning_rate"
    with pytest.raises(CommandError, match="search: missing"):
        call_command("search_settings", str(file), "--cohort", "Balls", "--project", "balls")
    file.write_text(file.read_text() + '[search.space]\ntraining.loss = ["dice", "dice_ce"]\n')
    out = io.StringIO()
    call_command("search_settings", str(file), "--cohort", "Balls", "--project", "balls", "--json", stdout=out)
    search = SettingsSearch.objects.get(pk=json.loads(out.getvalue())["settings_search"])
    assert search.search["space"] == {"training.loss": {"choices": ["dice", "dice_ce"]}}
