"""Sending results to the node of their rule; the only writer of how far that is.

waiting ──result is there, and it is time──▶ sending ──▶ sent
   ▲                                            │
   └──────────── again after a pause ◀──────────┴──no attempt left──▶ failed
sent | failed | waiting ──resend──▶ waiting

Sending itself is a job (`Send`), which this room does not know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from inference.jobs.models import Job
from inference.prediction import results
from inference.routing.conditions import RuleError
from inference.routing.models import RoutedStudy
from portal.accounts.audit import trail
from portal.accounts.models import User
from studies.dimse.errors import RemoteError
from studies.dimse.models import RemoteNode
from studies.models import Series, Study

logger = logging.getLogger(__name__)

# Between one attempt and the next; each attempt repeats broken connections by itself.
PAUSES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 480))
AT_ONCE = 200  # rows in one turn

Send = Callable[[RemoteNode, Study, Sequence[Series]], Job]  # queues a job that sends series; raises RemoteError
Push = RoutedStudy.Push


def advance(send: Send) -> int:
    """Take every row a step further that can go; returns how many."""
    now = timezone.now()
    ready = Q(push=Push.WAITING, prediction__isnull=False) & (Q(push_due_at__isnull=True) | Q(push_due_at__lte=now))
    ended = Q(push=Push.SENDING) & (Q(push_job__state__in=["succeeded", "failed", "cancelled"]) | Q(push_job=None))
    keys = RoutedStudy.objects.filter(ready | ended).order_by("pk").values_list("pk", flat=True)
    count = 0
    for key in list(keys[:AT_ONCE]):
        try:
            count += _step(key, send)
        except Exception as error:  # the others go on, and this one is tried again in the next turn
            logger.error("a result could not be pushed", extra={"routed": key, "kind": type(error).__name__})
    return count


def resend(row: RoutedStudy, *, by: User | None) -> RoutedStudy:
    """Send a result again that was sent or could not be, or at once one that waits for its next attempt.

    Raises `RuleError`.
    """
    with transaction.atomic():
        row = RoutedStudy.objects.select_for_update(of=("self",)).select_related("study").get(pk=row.pk)
        if not row.can_be_resent:
            raise RuleError(
                f"This result cannot be sent again: {row.get_push_display().lower()}.",
                "Wait until it was tried; the rule has to name a node.",
            )
        if row.prediction_id is None:
            raise RuleError("There is no result to send.", "Run the job again first.")
        row.push, row.push_attempts, row.push_due_at, row.push_cause = Push.WAITING, 0, None, ""
        row.save(update_fields=["push", "push_attempts", "push_due_at", "push_cause"])
        trail.record("study.resend", row.study, user=by, routed=row.pk)
    return row


def _step(key: int, send: Send) -> bool:
    with transaction.atomic():
        row = (
            RoutedStudy.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("study", "node", "prediction", "push_job")
            .filter(pk=key)
            .first()
        )
        if row is None:
            return False
        if row.push == Push.WAITING and row.prediction is not None:
            _start(row, send)
        elif row.push == Push.SENDING and (row.push_job is None or row.push_job.ended):
            _end(row)
        else:
            return False
        row.save(update_fields=["push", "push_job", "push_attempts", "push_due_at", "push_cause", "pushed_at"])
    return True


def _start(row: RoutedStudy, send: Send) -> None:
    assert row.prediction is not None
    series = results.series_of(row.prediction)
    if row.node is None:
        _fail(row, "The node was removed. Choose another one in the rule.")
    elif not series:
        _fail(row, "The result has no DICOM object that could be sent.")
    else:
        try:
            row.push_job = send(row.node, row.study, series)
        except RemoteError as error:
            _fail(row, str(error))
        else:
            row.push, row.push_attempts, row.push_due_at = Push.SENDING, row.push_attempts + 1, None


def _end(row: RoutedStudy) -> None:
    job = row.push_job
    if job is not None and job.state == Job.State.SUCCEEDED and job.result.get("whole") == job.result.get("studies"):
        row.push, row.push_cause, row.pushed_at = Push.SENT, "", job.finished_at
        return
    if job is not None and job.state == Job.State.CANCELLED:
        _fail(row, "Sending was cancelled.")
        return
    cause = _cause(job)
    if row.push_attempts <= len(PAUSES):
        row.push, row.push_cause = Push.WAITING, cause
        row.push_due_at = timezone.now() + PAUSES[row.push_attempts - 1]
    else:
        _fail(row, cause)


def _cause(job: Job | None) -> str:
    if job is None:
        return "The sending job is gone."
    told = job.cause or next((case["cause"] for case in job.result.get("cases", []) if case.get("cause")), "")
    return (told or "Not every object was sent.")[:300]


def _fail(row: RoutedStudy, cause: str) -> None:
    row.push, row.push_cause, row.push_due_at = Push.FAILED, cause[:300], None
