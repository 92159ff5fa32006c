"""Files of these tests lie in a folder of their own; jobs run at once, in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inference.jobs.models import Job
from tests.jobs import execute


@pytest.fixture
def media(settings, tmp_path: Path) -> Path:
    """An empty MEDIA_ROOT."""
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()
    return settings.MEDIA_ROOT


@pytest.fixture
def run_job(broker, transactional_db) -> Callable[[Job | None], Job]:
    """Runs a queued job as a worker would: claim, body, end. The heartbeat needs committed rows."""
    from inference.evaluation.tasks import evaluate
    from inference.explanation.tasks import explain
    from inference.prediction.tasks import predict
    from inference.registry.tasks import make_ensemble
    from inference.training.tasks import cross_validate, train
    from inference.tuning.tasks import find_learning_rate, search_settings

    tasks = (train, cross_validate, search_settings, find_learning_rate, predict, explain, evaluate, make_ensemble)
    bodies = {task.name: task.body for task in tasks}

    def run(job: Job | None) -> Job:
        assert job is not None
        execute(job, bodies[job.task])
        job.refresh_from_db()
        return job

    return run
