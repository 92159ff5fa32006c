"""One attempt at a job: what a task's body gets, the heartbeat behind it, and how the attempt ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection

from inference.jobs import failures, services
from inference.jobs.errors import Cancelled, LeaseLost, TimeLimitReached
from inference.jobs.models import Job

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.25  # seconds between two writes of the progress
LOOK_INTERVAL = 1.0  # seconds between two looks at the row by check()


class Run:
    """What the body of a task works with."""

    def __init__(self, job: Job, *, time_limit: float | None = None) -> None:
        assert job.claim is not None
        self.job = job
        self.claim: uuid.UUID = job.claim
        self.finished = False
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._time_limit = time_limit
        self._heartbeat = Heartbeat(job.pk, job.claim, time_limit=time_limit)
        self._progress_at = self._looked_at = -PROGRESS_INTERVAL - LOOK_INTERVAL

    @property
    def parameters(self) -> dict[str, Any]:
        return self.job.parameters

    @property
    def attempt(self) -> int:
        return self.job.attempt

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the job's log: `level` is info, warning or error. No patient identity."""
        logger.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "job %s: %s", self.job.pk, text)
        services.write_log(self.job.pk, self.claim, text, level)

    def progress(self, fraction: float, text: str = "") -> None:
        """How much is done, 0 to 1, and what is being done. May be called as often as one likes."""
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_INTERVAL or fraction >= 1:
            self._progress_at = now
            services.report_progress(self.job.pk, self.claim, fraction, text)

    def metric(self, name: str, step: int, value: float) -> None:
        """One point of a live curve. Names such as `train_loss`, `val_dice`; `step` is the epoch or the iteration."""
        services.write_metric(self.job.pk, self.claim, name, step, float(value))

    def check(self) -> None:
        """Call it often. Raises Cancelled, LeaseLost or TimeLimitReached where the attempt has to stop."""
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            told = failures.too_long(self._time_limit)
            raise TimeLimitReached(told.cause, told.next_step)
        if now - self._looked_at >= LOOK_INTERVAL:
            self._looked_at = now
            row = Job.objects.filter(pk=self.job.pk, claim=self.claim, state=Job.State.RUNNING)
            cancel_requested = row.values_list("cancel_requested", flat=True).first()
            if cancel_requested is None:
                self._heartbeat.lost.set()
            elif cancel_requested:
                self._heartbeat.cancel_requested.set()
        if self._heartbeat.lost.is_set():
            raise LeaseLost
        if self._heartbeat.cancel_requested.is_set():
            raise Cancelled

    @contextmanager
    def owned(self) -> Iterator[Job]:
        """A transaction in which this attempt is sure to own the job: write a job's lasting outcome inside it.

        Raises LeaseLost where another attempt took over. Keep it short, the heartbeat waits for it.
        """
        with services.owned(self.job.pk, self.claim) as job:
            yield job

    def finish(self, result: dict[str, Any] | None = None) -> None:
        """End the job well before the body returns.

        Inside `owned()` the outcome and the job's end are then one transaction: both happen once, or neither.
        """
        services.succeed(self.job.pk, self.claim, result)
        self.finished = True


class Heartbeat(threading.Thread):
    """Renews the lease on a database connection of its own, also while the body sits in one long call.

    A body that does not look up for `JOB_HARD_LIMIT_SECONDS` after its time limit cannot be stopped in any other way
    than with its process: the job fails by name, then the process is killed.
    """

    def __init__(self, job_id: int, claim: uuid.UUID, *, time_limit: float | None = None) -> None:
        super().__init__(name=f"heartbeat of job {job_id}", daemon=True)
        self.job_id, self.claim = job_id, claim
        self.lost, self.cancel_requested, self.over = threading.Event(), threading.Event(), threading.Event()
        self._time_limit = time_limit
        self._kill_at = None if time_limit is None else time.monotonic() + time_limit + settings.JOB_HARD_LIMIT_SECONDS

    def run(self) -> None:
        process = psutil.Process()
        try:
            while not self.over.wait(settings.JOB_HEARTBEAT_SECONDS):
                try:
                    if self._kill_at is not None and time.monotonic() > self._kill_at:
                        self._kill()
                    cancel_requested = services.renew(self.job_id, self.claim, memory=process.memory_info().rss)
                except LeaseLost:
                    self.lost.set()
                    return
                except DatabaseError as error:  # try again: the lease is longer than a short outage
                    logger.warning("job %s: heartbeat failed (%s)", self.job_id, type(error).__name__)
                    connection.close()
                    continue
                if cancel_requested is None:
                    self.lost.set()
                    return
                if cancel_requested:
                    self.cancel_requested.set()
        finally:
            connection.close()

    def _kill(self) -> None:
        services.fail(self.job_id, self.claim, failures.too_long(self._time_limit))
        if not self.over.is_set():
            logger.error("job %s does not look up after its time limit; its process is killed", self.job_id)
            os.kill(os.getpid(), signal.SIGKILL)


def execute(job: Job, body: Callable[[Run], dict[str, Any] | None], *, time_limit: float | None = None) -> None:
    """Run `body` once for a job that was claimed, and write how it ended."""
    run = Run(job, time_limit=time_limit)
    logger.info("job %s: attempt %s of %s starts", job.pk, job.attempt, job.task)
    run._heartbeat.start()
    try:
        _run_body(run, body)
    except LeaseLost:
        logger.warning("job %s: attempt %s lost its lease and stopped", job.pk, job.attempt)
    finally:
        run._heartbeat.over.set()
        run._heartbeat.join(timeout=5)


def _run_body(run: Run, body: Callable[[Run], dict[str, Any] | None]) -> None:
    job = run.job
    try:
        result = body(run)
        if not run.finished:
            run.finish(result)
    except LeaseLost:
        raise
    except Cancelled:
        services.acknowledge_cancel(job.pk, run.claim)
    except (OperationalError, InterfaceError) as error:
        # The database went away: not the job's fault, so it counts as a lost worker. Where even this cannot be
        # written, the lease runs out and the reaper does the same.
        logger.warning("job %s: database error (%s)", job.pk, type(error).__name__)
        connection.close()
        services.release(job.pk, run.claim, "The connection to the database broke")
    except Exception as error:
        failure = failures.explain(error, project_id=job.project_id)
        logger.error("job %s failed: %s", job.pk, failure.error_class)
        services.fail(job.pk, run.claim, failure)
    except BaseException:
        services.release(job.pk, run.claim, "The worker was stopped")
        raise
