"""`@job_task`: the only way to declare background work.

    @job_task(queue="infer", max_attempts=3, time_limit=3600)
    def count_studies(run: Run) -> dict:
        studies = Study.objects.filter(project_id=run.parameters["project"])
        for number, study in enumerate(studies):
            run.check()
            run.progress(number / len(studies), f"study {number + 1} of {len(studies)}")
        return {"studies": len(studies)}

    submit(count_studies, project=project, title="Count studies", parameters={"project": project.pk}, by=user)

Declare tasks in an app's `tasks` module, where the workers find them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import shared_task  # noqa: TID251
from celery.exceptions import Reject
from django.db import InterfaceError, OperationalError, connection

from inference.jobs import services
from inference.jobs.models import Job
from inference.jobs.run import Run, execute

Body = Callable[[Run], dict[str, Any] | None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobTask:
    name: str
    queue: str
    max_attempts: int
    time_limit: float | None
    body: Body


TASKS: dict[str, JobTask] = {}  # by name: what this process can run


def job_task(*, queue: str, max_attempts: int = 3, time_limit: float | None = None) -> Callable[[Body], JobTask]:
    """Turn `body(run)` into a task. `time_limit` is in seconds; what the body returns becomes the job's result."""
    if queue not in Job.Queue.values:
        raise ValueError(f"There is no queue {queue!r}; use one of {', '.join(Job.Queue.values)}.")
    if max_attempts < 1:
        raise ValueError("A task needs at least one attempt.")

    def declare(body: Body) -> JobTask:
        name = f"{body.__module__}.{body.__qualname__}"
        TASKS[name] = JobTask(name=name, queue=queue, max_attempts=max_attempts, time_limit=time_limit, body=body)
        return TASKS[name]

    return declare


class DatabaseAway(Exception):
    """No job could be claimed, because the database does not answer."""


def work(queue: str, *, worker: str) -> bool:
    """Take the next job of `queue` whose task this process knows, and run it to its end. False where there is none.

    Raises DatabaseAway.
    """
    try:
        job = services.claim(queue, worker=f"{worker} pid {os.getpid()}", tasks=list(TASKS))
    except (OperationalError, InterfaceError) as error:
        raise DatabaseAway from error
    if job is None:
        logger.info("queue %s: nothing to claim, message ignored", queue)
        return False
    task = TASKS[job.task]
    execute(job, task.body, time_limit=task.time_limit)
    return True


@shared_task(
    bind=True,
    name=services.NEXT,
    Request="inference.jobs.lost:Request",
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    max_retries=0,
)
def deliver(self: Any, *, queue: str) -> None:
    try:
        work(queue, worker=self.request.hostname or "")
    except DatabaseAway:
        logger.warning("queue %s: the database is away, the message goes back", queue)
        connection.close()
        time.sleep(1)  # it comes again at once
        raise Reject(requeue=True) from None


def periodic(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Declare what beat runs by this name (`CELERY_BEAT_SCHEDULE`). It is no job: nobody asked for it, it has no row,
    and where it is cut short the next turn starts over."""

    def declare(body: Callable[[], None]) -> Callable[[], None]:
        return shared_task(name=name, ignore_result=True, acks_late=False)(body)

    return declare
