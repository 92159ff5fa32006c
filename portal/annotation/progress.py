"""How far a campaign is: per reader, pace, time for each case, expected end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Count, Max, Q
from django.db.models.functions import TruncDate
from django.utils import timezone

from inference.evaluation.statistics.agreement import Agreement, median_agreement
from portal.accounts.models import User
from portal.annotation.models import Campaign, Draft, Read, Task

DAYS = 14  # of the small curve of reads a day
SILENT_DAYS = 5  # without a save or a submission a reader counts as stopped
PACE_DAYS = 7  # the end is foreseen from the reads of so many days
S = Task.State


@dataclass(frozen=True)
class Pace:
    """A word with the status that its pill has (see the design's status table)."""

    status: str
    text: str


@dataclass(frozen=True)
class ReaderProgress:
    reader: User
    active: bool  # still a reader of the campaign
    total: int
    submitted: int
    drafts: int
    skipped: int
    flagged: int
    median_seconds: Agreement
    last_activity: datetime | None
    daily: list[int]
    pace: Pace

    @property
    def left(self) -> int:
        return self.total - self.submitted

    @property
    def percent(self) -> float:
        return 100 * self.submitted / self.total if self.total else 0.0

    @property
    def draft_percent(self) -> float:
        return 100 * self.drafts / self.total if self.total else 0.0


@dataclass(frozen=True)
class CampaignProgress:
    readers: list[ReaderProgress]
    cases: int
    total: int
    submitted: int
    drafts: int
    lacking: int  # reads that no reader is assigned to
    median_seconds: Agreement
    expected_end: date | None
    daily: float  # reads a day lately

    @property
    def percent(self) -> float:
        return 100 * self.submitted / self.total if self.total else 0.0


def of_campaign(campaign: Campaign, *, only: User | None = None) -> CampaignProgress:
    """Progress of all readers, or of one. Withdrawn cases do not count."""
    today = timezone.localdate()
    tasks = campaign.tasks.exclude(state=S.WITHDRAWN)
    if only is not None:
        tasks = tasks.filter(reader=only)
    counts = {
        row["reader"]: row
        for row in tasks.order_by()
        .values("reader")
        .annotate(
            total=Count("pk"),
            submitted=Count("pk", filter=Q(state=S.SUBMITTED)),
            started=Count("pk", filter=Q(state=S.STARTED)),
            skipped=Count("pk", filter=Q(state=S.SKIPPED)),
            flagged=Count("pk", filter=~Q(flag="")),
        )
    }
    active = set(campaign.readers.values_list("user_id", flat=True))
    members = [only.pk] if only is not None else list(counts.keys() | active)
    users = User.objects.in_bulk(members)
    seconds: dict[int, list[int]] = {}
    newest = Read.objects.filter(task__campaign=campaign).order_by("task_id", "-version").distinct("task_id")
    for reader, spent in newest.values_list("task__reader_id", "active_seconds"):
        if spent > 0:
            seconds.setdefault(reader, []).append(spent)
    last = dict(
        Draft.objects.filter(task__campaign=campaign).values_list("task__reader_id").annotate(last=Max("saved_at"))
    )
    daily = _daily(campaign, today)
    readers = []
    for pk in sorted(members, key=lambda pk: str(users[pk]).casefold()):
        row = counts.get(pk, {"total": 0, "submitted": 0, "started": 0, "skipped": 0, "flagged": 0})
        readers.append(
            ReaderProgress(
                reader=users[pk],
                active=pk in active,
                total=row["total"],
                submitted=row["submitted"],
                drafts=row["started"],
                skipped=row["skipped"],
                flagged=row["flagged"],
                median_seconds=median_agreement(seconds.get(pk, []), name="median time"),
                last_activity=last.get(pk),
                daily=daily.get(pk, [0] * DAYS),
                pace=_pace(campaign, row["total"], row["submitted"], last.get(pk), today, active=pk in active),
            )
        )
    submitted = sum(reader.submitted for reader in readers)
    cases = campaign.cohort.cases.count()
    assigned = sum(reader.total for reader in readers)
    total = assigned if only is not None or campaign.state == Campaign.State.DRAFT else cases * campaign.overlap
    lately = sum(sum(reader.daily[-PACE_DAYS:]) for reader in readers) / min(PACE_DAYS, _days_open(campaign, today))
    everything = [spent for reader in readers for spent in seconds.get(reader.reader.pk, [])]
    return CampaignProgress(
        readers=readers,
        cases=cases,
        total=max(total, assigned),
        submitted=submitted,
        drafts=sum(reader.drafts for reader in readers),
        lacking=max(0, total - assigned),
        median_seconds=median_agreement(everything, name="median time"),
        expected_end=_expected_end(campaign, max(total, assigned) - submitted, lately, today),
        daily=lately,
    )


def _days_open(campaign: Campaign, today: date) -> int:
    if campaign.started_at is None:
        return 1
    return max(1, (today - timezone.localtime(campaign.started_at).date()).days + 1)


def _daily(campaign: Campaign, today: date) -> dict[int, list[int]]:
    """First submissions a day for each reader, the last day being today."""
    since = today - timedelta(days=DAYS - 1)
    rows = (
        Read.objects.filter(task__campaign=campaign, version=1, submitted_at__date__gte=since)
        .order_by()
        .values_list("task__reader_id", TruncDate("submitted_at"))
        .annotate(n=Count("pk"))
    )
    daily: dict[int, list[int]] = {}
    for reader, day, n in rows:
        place = (day - since).days
        if 0 <= place < DAYS:
            daily.setdefault(reader, [0] * DAYS)[place] += n
    return daily


def _expected_end(campaign: Campaign, left: int, daily: float, today: date) -> date | None:
    if campaign.state != Campaign.State.READING or left <= 0 or daily <= 0:
        return None
    days = math.ceil(left / daily)
    return today + timedelta(days=days) if days < 3650 else None


def _pace(campaign: Campaign, total: int, done: int, last: datetime | None, today: date, *, active: bool) -> Pace:
    if not active:
        return Pace("none", "Left the campaign")
    if campaign.state == Campaign.State.DRAFT:
        return Pace("none", "Not started")
    if total == 0:
        return Pace("none", "Nothing assigned")
    if done >= total:
        return Pace("ok", "Done")
    if campaign.state == Campaign.State.CLOSED:
        return Pace("none", "Closed")
    if campaign.state == Campaign.State.PAUSED:
        return Pace("info", "Paused")
    started = timezone.localtime(campaign.started_at).date() if campaign.started_at else today
    silent = (today - (timezone.localtime(last).date() if last else started)).days
    if silent >= SILENT_DAYS:
        return Pace("bad", f"Stopped {silent} days ago" if last else f"Not begun for {silent} days")
    if campaign.due_date is not None:
        if today > campaign.due_date:
            return Pace("warn", "Past the due date")
        span = max(1, (campaign.due_date - started).days + 1)
        due = total * ((today - started).days) / span
        behind = math.floor((due - done) / (total / span))
        if behind >= 1:
            return Pace("warn", f"{behind} day{'s' if behind > 1 else ''} behind")
        return Pace("ok", "On pace")
    return Pace("run", "Reading") if last else Pace("info", "Not begun")
