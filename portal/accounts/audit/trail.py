"""Writing the audit trail. `record` is called from every room; what it cannot write does not happen."""

from __future__ import annotations

import contextvars
import hashlib
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, models, transaction
from django.http import HttpRequest

from portal.accounts.addresses import client_address
from portal.accounts.audit.models import AuditEvent, Outcome
from portal.accounts.models import Project, User
from portal.runtime.logs import current_fields

# A row of this length of time stands for every further look at the same object (frames come by the hundred).
READ_SECONDS = 600
THUMBNAIL_SECONDS = 86400

_ACTION = re.compile(r"[a-z_]{2,19}\.[a-z_]{2,20}\Z")
# Codes, numbers, UIDs, slugs. No blanks: nobody's name fits by accident.
_WORD = re.compile(r"[A-Za-z0-9_.:/@+-]{0,80}\Z")


class NotRecorded(Exception):
    """The row could not be written, so what it would have told of must not happen."""


class _Caller:
    """Stands for: whoever sent the request in hand, nobody outside of requests."""


CALLER = _Caller()


@dataclass
class Occasion:
    """The request in hand, and how many rows it has written."""

    request: HttpRequest | None
    rows: int = 0


_occasion: contextvars.ContextVar[Occasion | None] = contextvars.ContextVar("audit_occasion", default=None)


@contextmanager
def occasion(request: HttpRequest) -> Iterator[Occasion]:
    """Rows written inside belong to `request`: its user, address, id. One of the same request stays."""
    current = _occasion.get()
    if current is not None and current.request is request:
        yield current
        return
    token = _occasion.set(Occasion(request))
    try:
        yield _occasion.get()  # type: ignore[misc]
    finally:
        _occasion.reset(token)


def window(seconds: int) -> int:
    """The number of the window of this length that it is now, since 1970."""
    return int(time.time()) // seconds


class Remembered:
    """Which rows of a window this process has written: asking costs a look into a dictionary, and no query."""

    def __init__(self, seconds: int = READ_SECONDS, size: int = 20_000) -> None:
        self.seconds, self.size = seconds, size
        self._lock = threading.Lock()
        self._known: dict[Any, int] = {}

    def holds(self, key: Any) -> bool:
        return self._known.get(key) == window(self.seconds)

    def add(self, key: Any) -> None:
        """From the commit on; what is rolled back is written again by whoever reads next."""
        now = window(self.seconds)
        transaction.on_commit(lambda: self._keep(key, now))

    def _keep(self, key: Any, now: int) -> None:
        with self._lock:
            if len(self._known) >= self.size:
                self._known.clear()
            self._known[key] = now


_written = Remembered()


def record(
    action: str,
    of: models.Model | None = None,
    *,
    kind: str = "",
    key: object = "",
    project: Project | int | None = None,
    patient: int | None = None,
    user: User | _Caller | None = CALLER,
    outcome: Outcome = Outcome.SUCCESS,
    address: str | None = None,
    seconds: int = 0,
    once: str = "",
    **detail: bool | int | float | str | None,
) -> None:
    """Add one row, in the transaction in hand; raises `NotRecorded`, and the caller must let that end the action.

    action: `noun.verb`. of: the object; project and patient are read from its columns where they are not given.
    kind, key: the object where it has no row. address: of a client that sent no HTTP request. seconds: one row of each
    window of this length stands for all that would be the same. once: one row for each value, for ever. detail: codes
    and numbers; text with blanks is a ValueError, because it might name somebody.
    """
    now = _occasion.get()
    if of is not None:
        kind, key = kind or of._meta.label_lower, key or of.pk
        project = project if project is not None else _column(of, "project")
        patient = patient if patient is not None else _column(of, "patient")
    row = row_of(action, user=user, address=address, **detail)
    row.object_kind, row.object_id, row.patient, row.outcome = kind, str(key)[:64], patient, outcome
    row.project_id = project.pk if isinstance(project, Project) else project
    if seconds or once:
        row.once = _same(row, once or f"{window(seconds)}/{seconds}")
    if row.once is not None and _written.holds(row.once):
        if now is not None:
            now.rows += 1
        return
    try:
        AuditEvent.objects.bulk_create([row], ignore_conflicts=row.once is not None)
    except DatabaseError as error:
        raise NotRecorded("The audit trail cannot be written.") from error
    if row.once is not None:
        _written.add(row.once)
    if now is not None:
        now.rows += 1


def row_of(
    action: str,
    *,
    user: User | _Caller | None = CALLER,
    address: str | None = None,
    **detail: bool | int | float | str | None,
) -> AuditEvent:
    """The row of somebody's action as `record` would write it, without its object; for a statement that adds it
    together with what it tells of (`studies.ingest.prepared`)."""
    _checked(action, detail)
    now = _occasion.get()
    request = now.request if now is not None else None
    if isinstance(user, _Caller):
        asking: Any = getattr(request, "user", None)
        user = asking if asking is not None and asking.is_authenticated else None
    return AuditEvent(
        user_id=user.pk if user is not None else None,
        token_id=user.token_id if user is not None else None,
        action=action,
        address=address or (client_address(request.META) if request is not None else None),
        request_id=_tie(),
        detail=detail,
    )


def _tie() -> str:
    """What ties the row to the lines of the log: the request, or the job."""
    fields = current_fields()
    if "request_id" in fields:
        return str(fields["request_id"])
    return f"job-{fields['job_id']}" if "job_id" in fields else ""


def _checked(action: str, detail: Mapping[str, Any]) -> None:
    if not _ACTION.match(action):
        raise ValueError(f"{action!r} is not of the form noun.verb")
    for name, value in detail.items():
        if isinstance(value, str) and not _WORD.match(value):
            raise ValueError(f"{name} of {action} is not a code; the audit trail takes no free text")


def _column(of: models.Model, name: str) -> int | None:
    """`of.project_id`, or the key of the object itself where it is the project."""
    if of._meta.model_name == name:
        return of.pk
    return getattr(of, f"{name}_id", None)


def _same(row: AuditEvent, window: str) -> uuid.UUID:
    words = (row.user_id, row.token_id, row.address, row.action, row.object_kind, row.object_id, row.outcome, window)
    return uuid.UUID(bytes=hashlib.blake2b(repr(words).encode(), digest_size=16).digest())
