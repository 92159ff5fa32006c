"""The demonstration's model: a small network, really trained, run and evaluated by jobs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inference.evaluation import services as evaluation
from inference.evaluation.models import Evaluation
from inference.jobs import services as jobs
from inference.jobs.errors import JobError, JobStopped
from inference.jobs.models import Job
from inference.jobs.run import Run
from inference.jobs.waiting import wait
from inference.prediction import services as prediction
from inference.prediction.models import Prediction
from inference.registry.models import ModelVersion
from inference.training import services as training
from inference.training.models import TrainingRun
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort, ReferenceStandard, Split

NAME = "liver-phantom-unet"
CONFIG: dict[str, Any] = {
    "name": NAME,
    "task": "segmentation",
    "description": "Outlines liver and lesions in synthetic CT phantoms. Knows nothing of real patients.",
    "data": {"modality": ["CT"]},
    "preprocessing": [
        {"name": "orient", "to": "LPS"},
        {"name": "window", "lower": -100, "upper": 250},
        {"name": "normalise", "method": "zscore"},
    ],
    "network": {
        "name": "unet",
        "channels": [8, 16, 32, 64],
        "strides": [2, 2, 2],
        "residual_units": 1,
        "norm": "instance",
    },
    # Patch and window are the whole phantom: instance norm then sees the same share of air in both.
    "training": {
        "patch": [24, 64, 64],
        "batch_size": 2,
        "max_minutes": 2.5,
        "learning_rate": 5e-3,
        "averaging": 0.9,
        "validate_every": 5,
        "seed": 1,
    },
    "augmentation": {"contrast": 0.1, "noise": 0.1},
    "inference": {"window": [24, 64, 64], "overlap": 0.25},
}

Stage = Callable[[float, str], None]


def train(
    project: Project, cohort: Cohort, reference: ReferenceStandard, epochs: int, by: User, run: Run, stage: Stage
) -> ModelVersion:
    """The version trained for the demonstration; a run that failed before is queued again."""
    found = TrainingRun.objects.filter(project=project, name=NAME, reference=reference).select_related("job").first()
    if found is None:
        config = {**CONFIG, "training": {**CONFIG["training"], "epochs": epochs}}
        found = training.start(project=project, config=config, cohort=cohort, reference=reference, name=NAME, by=by)
    _until_done(found.job, by, run, stage)
    found.refresh_from_db()
    assert found.version is not None
    return found.version


def predict(version: ModelVersion, cohort: Cohort, split: str, by: User, run: Run, stage: Stage) -> None:
    """Run the version on one side of a cohort, unless every case has its result."""
    cases = cohort.cases.filter(cohort_patient__split=split)
    if Prediction.objects.filter(version=version, image__in=cases.values("image")).count() < cases.count():
        _until_done(prediction.start(version, cohort=cohort, split=split, by=by), by, run, stage)


def evaluate(version: ModelVersion, reference: ReferenceStandard, by: User, run: Run, stage: Stage) -> Evaluation:
    """The evaluation on the test patients of the reference standard's cohort."""
    found = (
        Evaluation.objects.filter(version=version, reference=reference, split=Split.TEST).select_related("job").first()
    )
    if found is None:
        found = evaluation.start(version, reference.cohort, reference=reference, split=Split.TEST, by=by)
    if found.finished_at is None:
        _until_done(found.job, by, run, stage)
    return found


def _until_done(job: Job | None, by: User, run: Run, stage: Stage) -> None:
    """Wait for another job; cancelling the demonstration cancels it too. Raises `JobError` where it fails."""
    assert job is not None
    if job.is_retryable:
        job = jobs.retry(job, by=by)

    def look(job: Job) -> None:
        run.check()
        waiting = job.state == Job.State.QUEUED
        stage(job.progress, f"{job.title}: {'waiting for a worker' if waiting else job.progress_text}"[:200])

    try:
        job = wait(job, look, interval=1.0)
    except JobStopped:
        job.refresh_from_db()
        if job.is_cancelable:
            jobs.cancel(job, by=by)
        raise
    if job.state != Job.State.SUCCEEDED:
        raise JobError(
            f"“{job.title}” {job.get_state_display().lower()}. {job.cause}".strip(),
            job.next_step or "Load the demo again: it goes on where it stopped.",
        )
