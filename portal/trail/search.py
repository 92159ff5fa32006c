"""Searching the audit trail: by patient, user, project, action, outcome and time, newest first, page by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.utils import timezone

from portal.accounts.audit.models import AuditEvent, AuditQuerySet, Outcome
from portal.accounts.models import Project, User
from portal.frame.spreadsheets import safe

PAGE = 50


class BadSearch(ValueError):
    """A criterion that means nothing, in words."""


@dataclass(frozen=True)
class Search:
    """What is asked for. `patient` is the key of a patient's row; `before` the key of the row to go on after."""

    user: str = ""
    project: str = ""
    patient: int | None = None
    action: str = ""
    outcome: str = ""
    since: date | None = None
    until: date | None = None
    before: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Search:
        """From a query string. Raises BadSearch."""

        def text(name: str) -> str:
            return str(values.get(name) or "").strip()[:150]

        outcome = text("outcome")
        if outcome and outcome not in Outcome.values:
            raise BadSearch(f"The outcome is one of {', '.join(Outcome.values)}.")
        found = cls(
            user=text("user"),
            project=text("project"),
            patient=_number("patient", text("patient")),
            action=text("action"),
            outcome=outcome,
            since=_day("since", text("since")),
            until=_day("until", text("until")),
            before=_number("before", text("before")),
        )
        if found.since and found.until and found.since > found.until:
            raise BadSearch("The first day lies after the last one.")
        return found

    def rows(self, viewer: User) -> AuditQuerySet:
        """Every row that fits and that `viewer` may see, from `before` on, newest first."""
        found = AuditEvent.objects.visible_to(viewer)
        if self.user:
            found = found.filter(user__in=list(User.objects.filter(username=self.user).values_list("pk", flat=True)))
        if self.project:
            found = found.filter(
                project__in=list(Project.objects.filter(slug=self.project).values_list("pk", flat=True))
            )
        if self.patient is not None:
            found = found.filter(patient=self.patient)
        if self.action:  # `study` finds study.view, study.read, …
            found = found.filter(action=self.action) if "." in self.action else _of_noun(found, self.action)
        if self.outcome:
            found = found.filter(outcome=self.outcome)
            if self.outcome != Outcome.SUCCESS:  # said once more, so that the index of what did not succeed is used
                found = found.exclude(outcome=Outcome.SUCCESS)
        if self.since:
            found = found.filter(time__gte=_midnight(self.since))
        if self.until:
            found = found.filter(time__lt=_midnight(self.until + timedelta(days=1)))
        if self.before is not None:
            last = AuditEvent.objects.filter(pk=self.before).values_list("time", flat=True).first()
            if last is None:
                return found.none()
            found = found.filter(Q(time__lt=last) | Q(time=last, pk__lt=self.before))
        return found.order_by("-time", "-id")

    def page(self, viewer: User, size: int = PAGE) -> tuple[list[AuditEvent], int | None]:
        """One page, and the key to go on after, or None at the end."""
        rows = list(self.rows(viewer).select_related("user", "project", "token")[: size + 1])
        return rows[:size], rows[size - 1].pk if len(rows) > size else None

    def address(self, **changes: Any) -> str:
        """The query string; it names nobody by more than a user name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)} | changes
        return urlencode({name: value for name, value in values.items() if value not in (None, "")})

    @property
    def narrows(self) -> bool:
        return bool(self.address(before=None))


def _of_noun(found: AuditQuerySet, noun: str) -> AuditQuerySet:
    return found.filter(action__gte=f"{noun}.", action__lt=f"{noun}/")


def _number(name: str, value: str) -> int | None:
    if not value:
        return None
    if not value.isdecimal() or len(value) > 18:
        raise BadSearch(f"{name} is a number.")
    return int(value)


def _day(name: str, value: str) -> date | None:
    if not value:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise BadSearch(f"{name} is a day, such as 2026-11-26.") from None


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


COLUMNS = (
    "time", "user", "token", "action", "object_kind", "object_id", "project", "patient", "address", "request_id",
    "outcome", "detail",
)  # fmt: skip


def lines(rows: AuditQuerySet) -> Iterator[list[str]]:
    """The table of an export, heading first; read in pieces."""
    yield list(COLUMNS)
    columns = ["user__username", "project__slug", *COLUMNS, "id"]
    for row in rows.values(*columns).iterator(chunk_size=2000):
        row["time"] = row["time"].isoformat()
        row["user"] = row["user__username"] or row["user"]
        row["project"] = row["project__slug"] or row["project"]
        row["detail"] = " ".join(f"{name}={value}" for name, value in row["detail"].items())
        yield ["" if row[name] is None else safe(str(row[name])) for name in COLUMNS]
