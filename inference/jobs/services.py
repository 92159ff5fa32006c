"""The only writers of jobs.

A job belongs to the attempt that holds its claim token. Everything an attempt writes is conditional on that token, so
an attempt that lost its lease cannot change the job any more. Times are the database's, so clocks may differ between
machines.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Coalesce, Greatest, Now
from kombu.exceptions import ChannelError, OperationalError

from inference.jobs import order
from inference.jobs.errors import IllegalTransition, LeaseLost
from inference.jobs.failures import LESS_MEMORY, Failure
from inference.jobs.models import Job, JobLogLine, JobMetric
from portal.accounts.audit import trail
from portal.accounts.models import Project, User

if TYPE_CHECKING:
    from inference.jobs.task import JobTask

logger = logging.getLogger(__name__)

State = Job.State
TRANSITIONS: dict[str, frozenset[str]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.SUCCEEDED: frozenset(),
}
NEXT = "inference.jobs.next"  # the message that there is a job more
PUBLISH = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def submit(
    task: JobTask,
    *,
    project: Project,
    title: str,
    parameters: dict[str, Any],
    by: User | None,
    priority: int = Job.Priority.NORMAL,
) -> Job:
    """Write down a job and send it to its queue once the transaction commits.

    `parameters` holds primary keys and plain settings, `title` what people read; neither may carry identity.
    Where the broker cannot be reached the job stays queued and the reaper sends it later.
    """
    with transaction.atomic():
        job = Job.objects.create(
            project=project,
            task=task.name,
            title=title[:200],
            queue=task.queue,
            priority=priority,
            parameters=parameters,
            max_attempts=task.max_attempts,
            created_by=by,
        )
        trail.record("job.submit", job, user=by, task=task.name)
        transaction.on_commit(lambda: enqueue(job))
    return job


def enqueue(job: Job) -> bool:
    """Tell the queue's workers that there is a job more.

    The message names no job: whoever gets it takes the one that is next by then (`inference.jobs.order`), so a message
    too many does no harm. The row is written before the message goes out: a worker that has nothing to do claims within
    milliseconds, and passes over a row that is being written.
    """
    sent = Job.objects.filter(pk=job.pk, state=State.QUEUED)
    sent.update(enqueued_at=Now())
    try:
        current_app.send_task(
            NEXT, kwargs={"queue": job.queue}, queue=job.queue, retry=True, retry_policy=PUBLISH, ignore_result=True
        )
    except (OperationalError, OSError) as error:
        logger.warning("job %s waits: the broker cannot be reached (%s)", job.pk, type(error).__name__)
        sent.update(enqueued_at=None)
        return False
    return True


def claim(queue: str, *, worker: str, tasks: Sequence[str]) -> Job | None:
    """Take the next job of a queue, among those of `tasks`, for a new attempt. None where there is none."""
    with transaction.atomic():
        key = order.lock_next(queue, tasks)
        if key is None:
            return None
        job = Job.objects.get(pk=key)
        _move(
            job,
            State.RUNNING,
            claim=uuid.uuid4(),
            attempt=job.attempt + 1,
            worker=worker[:120],
            lease_until=Now() + lease(),
            started_at=Now(),
            finished_at=None,
            memory=None,
            progress=0,
            progress_text="",
            **_NO_ERROR,
        )
        _note(job, f"Attempt {job.attempt} started by {worker}", "event")
    return Job.objects.select_related("project").get(pk=job.pk)


def renew(job_id: int, claim: uuid.UUID, memory: int | None = None) -> bool | None:
    """Extend the lease; `memory` is what the process holds, in bytes.

    Answers whether a cancel was asked for, or None where the lease is lost.
    """
    held = Job.objects.filter(pk=job_id, claim=claim, state=State.RUNNING)
    more = {} if memory is None else {"memory": Greatest(Coalesce("memory", 0), memory)}
    if not held.update(lease_until=Now() + lease(), **more):
        return None
    return held.values_list("cancel_requested", flat=True).first()


@contextmanager
def owned(job_id: int, claim: uuid.UUID) -> Iterator[Job]:
    """A transaction in which the attempt is sure to own the job; raises LeaseLost where it does not."""
    with transaction.atomic():
        job = Job.objects.select_for_update(no_key=True).filter(pk=job_id, claim=claim, state=State.RUNNING).first()
        if job is None:
            raise LeaseLost
        yield job


def report_progress(job_id: int, claim: uuid.UUID, fraction: float, text: str) -> None:
    held = Job.objects.filter(pk=job_id, claim=claim, state=State.RUNNING)
    if not held.update(progress=min(max(fraction, 0.0), 1.0), progress_text=text[:200]):
        raise LeaseLost


def write_log(job_id: int, claim: uuid.UUID, text: str, level: str = "info") -> None:
    with owned(job_id, claim) as job:
        JobLogLine.objects.create(job=job, attempt=job.attempt, level=level, text=text)


def write_metric(job_id: int, claim: uuid.UUID, name: str, step: int, value: float) -> None:
    with owned(job_id, claim) as job:
        JobMetric.objects.create(job=job, attempt=job.attempt, name=name[:60], step=step, value=value)


def succeed(job_id: int, claim: uuid.UUID, result: dict[str, Any] | None) -> None:
    """End the job well. Raises LeaseLost where the attempt no longer owns it, TypeError where `result` is no JSON."""
    json.dumps(result or {})
    with owned(job_id, claim) as job:
        _move(job, State.SUCCEEDED, result=result or {}, progress=1, progress_text="", cancel_requested=False)


def fail(job_id: int, claim: uuid.UUID, failure: Failure) -> None:
    with owned(job_id, claim) as job:
        _move(
            job,
            State.FAILED,
            error_class=failure.error_class[:120],
            cause=failure.cause,
            next_step=failure.next_step,
            cancel_requested=False,
        )
        if failure.traceback:
            _note(job, failure.traceback, "error")
        _note(job, f"Failed: {failure.cause}", "error")


def acknowledge_cancel(job_id: int, claim: uuid.UUID) -> None:
    with owned(job_id, claim) as job:
        _move(job, State.CANCELLED, cancel_requested=False)
        _note(job, "Stopped as asked", "event")


def release(job_id: int, claim: uuid.UUID, reason: str) -> None:
    """Give the job back before its lease runs out, for example because this worker is being shut down."""
    with owned(job_id, claim) as job:
        _give_back(job, reason)


def cancel(job: Job, *, by: User | None) -> Job:
    """A queued job ends at once; a running one is asked to stop and ends at its next check."""
    with transaction.atomic():
        job = Job.objects.select_for_update(no_key=True).get(pk=job.pk)
        if job.ended:
            raise IllegalTransition(f"This job has ended already ({job.get_state_display().lower()}).")
        if job.state == State.QUEUED:
            _move(job, State.CANCELLED)
            _note(job, f"Cancelled by {_name(by)} before it started", "event")
        elif not job.cancel_requested:
            job.cancel_requested = True
            job.save(update_fields=["cancel_requested"])
            _note(job, f"{_name(by)} asked to cancel", "event")
        trail.record("job.cancel", job, user=by)
    job.refresh_from_db()
    return job


def retry(job: Job, *, by: User | None) -> Job:
    """Queue an ended job again, with the same parameters and as many attempts as at first."""
    with transaction.atomic():
        job = Job.objects.select_for_update(no_key=True).get(pk=job.pk)
        if not job.is_retryable:
            raise IllegalTransition(
                f"Only a failed or cancelled job can run again; this one is {job.get_state_display().lower()}."
            )
        _note(job, f"Queued again by {_name(by)}", "event")
        trail.record("job.retry", job, user=by)
        _move(
            job,
            State.QUEUED,
            queued_at=Now(),
            attempts_before_retry=job.attempt,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            progress=0,
            progress_text="",
            result={},
            **_NO_ERROR,
        )
        transaction.on_commit(lambda: enqueue(job))
    job.refresh_from_db()
    return job


def prioritise(job: Job, priority: int, *, by: User | None) -> Job:
    """Give a queued job another priority; it keeps the time that it has waited since."""
    priority = Job.Priority(priority)
    with transaction.atomic():
        job = Job.objects.select_for_update(no_key=True).get(pk=job.pk)
        if not job.can_change_priority:
            raise IllegalTransition(
                f"Only a queued job has a priority to change; this one is {job.get_state_display().lower()}."
            )
        if job.priority != priority:
            before = Job.Priority(job.priority)
            job.priority = priority
            job.save(update_fields=["priority"])
            _note(job, f"Priority {before.label.lower()} → {priority.label.lower()} by {_name(by)}", "event")
            trail.record("job.prioritise", job, user=by, before=before.name.lower(), after=priority.name.lower())
            transaction.on_commit(lambda: enqueue(job))  # a worker that asked meanwhile passed the locked row over
    return job


def process_died(worker: str, *, signal: int | None, short_of_memory: bool) -> None:
    """A worker's process is gone, by this signal; the kernel may have counted a kill for want of memory.

    Its job goes to another process; one that took the machine's memory does not, as it would do so again.
    """
    name = f"signal {signal}" if signal is not None else "an exit"
    with transaction.atomic():
        for job in Job.objects.select_for_update(no_key=True).filter(state=State.RUNNING, worker=worker[:120]):
            if job.cancel_requested:
                _move(job, State.CANCELLED, cancel_requested=False)
                _note(job, f"Cancelled; its process had died ({name})", "event")
            elif short_of_memory:
                held = f" It held {_gigabytes(job.memory)} when last asked." if job.memory else ""
                cause = f"The machine ran out of memory: its kernel ended the job's process.{held}"
                _end_dead(job, "OutOfMemory", cause, LESS_MEMORY)
            else:
                _give_back(job, f"The job's process died ({name})")


def reap() -> dict[str, int]:
    """Give jobs of dead workers to others, and send queued jobs whose message never arrived.

    Answers how many were requeued, failed, cancelled and sent.
    """
    counts = {"requeued": 0, "failed": 0, "cancelled": 0, "sent": 0}
    with transaction.atomic():
        expired = Job.objects.select_for_update(skip_locked=True, no_key=True).filter(
            state=State.RUNNING, lease_until__lt=Now()
        )
        for job in expired:
            if job.cancel_requested:
                _move(job, State.CANCELLED, cancel_requested=False)
                _note(job, "Cancelled; its worker had died", "event")
                counts["cancelled"] += 1
            else:
                counts[_give_back(job, f"The worker {job.worker} gave no sign of life any more")] += 1
    counts["sent"] = _send_lost()
    if any(counts.values()):
        logger.info("reaped jobs: %s", counts)
    return counts


def lease() -> timedelta:
    return timedelta(seconds=settings.JOB_LEASE_SECONDS)


_NO_ERROR: dict[str, Any] = {"error_class": "", "cause": "", "next_step": "", "cancel_requested": False}


def _move(job: Job, to: str, **fields: Any) -> None:
    """The one place where a job's state changes. The caller holds the row's lock."""
    if to not in TRANSITIONS[job.state]:
        raise IllegalTransition(f"A job cannot go from {job.state} to {to}.")
    job.state = to
    if to != State.RUNNING:
        fields |= {"claim": None, "lease_until": None}
    if job.ended:
        fields["finished_at"] = Now()
    for name, value in fields.items():
        setattr(job, name, value)
    job.save(update_fields=["state", *fields])


def _give_back(job: Job, reason: str) -> str:
    if job.attempts_left > 0:
        _note(job, f"{reason}. Attempt {job.attempt} is over; another one follows.", "event")
        _move(job, State.QUEUED, enqueued_at=None, progress=0, progress_text="", worker="")
        transaction.on_commit(lambda: enqueue(job))
        return "requeued"
    attempts = job.attempt - job.attempts_before_retry
    times = "once" if attempts == 1 else f"{attempts} times"
    held = f" At its last sign of life it held {_gigabytes(job.memory)} of memory." if job.memory else ""
    _end_dead(
        job,
        "WorkerDied",
        f"The worker died during the job, {times}. {reason}.{held} Often the machine ran out of memory.",
        "See the memory use of the worker's machine, give the job less to do, then run it again.",
    )
    return "failed"


def _end_dead(job: Job, error_class: str, cause: str, next_step: str) -> None:
    _move(job, State.FAILED, error_class=error_class, cause=cause, next_step=next_step)
    _note(job, f"Failed: {cause}", "error")


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"


def _send_lost() -> int:
    """Queued jobs of which the broker has no message: never sent, or lost with the broker or with a worker."""
    waiting = Job.objects.filter(state=State.QUEUED)
    never_sent = Q(enqueued_at__isnull=True, created_at__lt=Now() - timedelta(seconds=5))
    stale = Q(enqueued_at__lt=Now() - timedelta(seconds=settings.JOB_RESEND_SECONDS))
    sent = 0
    for job in waiting.filter(never_sent).order_by("id"):
        if not enqueue(job):
            return sent
        sent += 1
    for queue in waiting.filter(stale).values_list("queue", flat=True).distinct().order_by():
        # Fewer messages than queued jobs: some are lost, or reserved by a busy worker. Sending as many as are missing,
        # never more, keeps the queue from growing.
        missing = waiting.filter(queue=queue).count() - messages_in(queue)
        for job in waiting.filter(stale, queue=queue).order_by("queued_at", "id")[: max(missing, 0)]:
            if not enqueue(job):
                return sent
            sent += 1
    return sent


def messages_in(queue: str) -> int:
    """How many messages wait in a queue of the broker."""
    try:
        with current_app.connection_for_read(heartbeat=0) as connection:
            return connection.default_channel.queue_declare(queue=queue, passive=True).message_count
    except ChannelError:
        return 0  # the broker knows no such queue: an empty one


def position(job: Job) -> int | None:
    """The job's place among those that wait for the same queue, 1 is next; None where it does not wait any more."""
    return order.places(job.queue).get(job.pk)


def _note(job: Job, text: str, level: str) -> None:
    JobLogLine.objects.create(job=job, attempt=job.attempt, level=level, text=text)


def _name(by: User | None) -> str:
    return by.username if by is not None else "the system"
