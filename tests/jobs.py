"""What a worker does, in the test's own process: claim a job and run its body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inference.jobs import run, services
from inference.jobs.models import Job


def claim(job: Job, *, worker: str = "w1") -> Job | None:
    """Put this job first in its queue and claim it. None where it does not wait."""
    kept = job.priority
    Job.objects.filter(pk=job.pk).update(priority=Job.Priority.URGENT)
    found = services.claim(job.queue, worker=worker, tasks=[job.task])
    Job.objects.filter(pk=job.pk).update(priority=kept)
    if found is not None:
        assert found.pk == job.pk, f"job {found.pk} comes before job {job.pk}"
        found.priority = kept
    return found


def claimed(job: Job, *, worker: str = "w1") -> Job:
    found = claim(job, worker=worker)
    assert found is not None, f"job {job.pk} does not wait"
    return found


def execute(job: Job, body: Callable[[run.Run], dict[str, Any] | None], *, time_limit: float | None = None) -> None:
    """Claim this job and run `body` for it once."""
    run.execute(claimed(job), body, time_limit=time_limit)
