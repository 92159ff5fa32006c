"""A dry run: what a rule would do with the studies that are in the archive. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from inference.routing import matching
from inference.routing.conditions import RuleError
from inference.routing.matching import Decision, Verdict
from inference.routing.models import RoutingRule
from studies.models import Study

MOST = 20_000  # studies that are looked at, the newest
AT_A_GLANCE = 3_000  # the same beside a form that is being written
CHUNK = 500


@dataclass
class Tally:
    """How many studies of which verdict. `complete`: these are all; else the newest MOST were looked at."""

    counts: Mapping[Verdict, int]
    studies: int
    complete: bool
    days: int | None
    matches: list[int] = field(default_factory=list)  # primary keys, newest first

    @property
    def a_day(self) -> float | None:
        """Studies a day that came in, in the period asked for."""
        return self.counts[Verdict.MATCH] / self.days if self.days and self.complete else None

    def as_dict(self) -> dict[str, object]:
        return {
            "days": self.days,
            "studies": self.studies,
            "complete": self.complete,
            "counts": {str(verdict): self.counts[verdict] for verdict in Verdict},
        }


def since(days: int | None) -> datetime | None:
    return None if days is None else timezone.now() - timedelta(days=days)


def days_of(text: str) -> int | None:
    """`30`, or None for `all`. Raises `RuleError`."""
    if text == "all":
        return None
    if text.isdecimal() and 0 < len(text) < 6 and int(text) > 0:
        return int(text)
    raise RuleError(f"“{text[:20]}” is no number of days.", "Give a number of days, or “all”.")


def studies_of(rule: RoutingRule, days: int | None) -> QuerySet[Study]:
    """Studies of the rule's project that came in within so many days, newest first."""
    studies = Study.objects.filter(project=rule.project_id)
    start = since(days)
    return (studies if start is None else studies.filter(created_at__gte=start)).order_by("-pk")


def tally(rule: RoutingRule, days: int | None, *, most: int = MOST) -> Tally:
    return page(rule, days, None, number=1, size=0, most=most)[0]


def page(
    rule: RoutingRule, days: int | None, verdict: Verdict | None, *, number: int, size: int, most: int = MOST
) -> tuple[Tally, list[Decision]]:
    """The tally, and one page (from 1) of decisions with this verdict, newest study first; at most `most` studies."""
    counts = dict.fromkeys(Verdict, 0)
    matches: list[int] = []
    found: list[Decision] = []
    seen, first, complete = 0, (number - 1) * size, True
    for decision in decisions(rule, studies_of(rule, days).select_related("patient")[: most + 1]):
        if seen == most:
            complete = False
            break
        place = counts[decision.verdict] if verdict is not None else seen
        seen += 1
        counts[decision.verdict] += 1
        if decision.verdict is Verdict.MATCH:
            matches.append(decision.study.pk)
        if verdict in (None, decision.verdict) and first <= place < first + size:
            found.append(decision)
    return Tally(counts, seen, complete, days, matches), found


def decisions(rule: RoutingRule, studies: QuerySet[Study]) -> Iterator[Decision]:
    """What the rule says to each, in their order; memory for CHUNK of them at a time."""
    conditions, version = rule.parsed(), rule.present_version()
    chunk: list[Study] = []

    def decide() -> Iterator[Decision]:
        facts = matching.facts_of(chunk, [version] if version is not None else [])
        for study in chunk:
            yield matching.decide(rule, conditions, version, study, facts)

    for study in studies.iterator(chunk_size=CHUNK):
        chunk.append(study)
        if len(chunk) == CHUNK:
            yield from decide()
            chunk = []
    yield from decide()
