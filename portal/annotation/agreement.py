"""How well the readers of a campaign agree: per question, per segment, per pair, and where they differ most."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from django.core.cache import cache
from django.db.models import Count, Max

from inference.evaluation.statistics.agreement import (
    Agreement,
    cohen_agreement,
    fleiss_agreement,
    krippendorff_agreement,
    mean_agreement,
)
from portal.accounts.models import User
from portal.annotation import overlaps
from portal.annotation.answers import SCALE
from portal.annotation.models import Campaign, Overlap, Question, Read

MINIMUM_CASES = 30  # below it an estimate is shown in grey, as resting on few cases
Kind = Question.Kind


@dataclass(frozen=True)
class Item:
    """Agreement on one question or one segment. `pairs` is keyed by reader ids, the smaller one first."""

    key: str  # "q12" or "s1"
    title: str
    measure: str
    overall: Agreement
    pairs: dict[tuple[int, int], Agreement]

    @property
    def few(self) -> bool:
        return self.overall.n < MINIMUM_CASES


@dataclass(frozen=True)
class CaseDisagreement:
    case: int
    name: str
    score: float  # 0: all agree, 1: as different as can be; of the item that differs most
    reads: int
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    readers: list[User]
    items: list[Item]
    disagreements: list[CaseDisagreement]
    pending: int  # pairs of reads whose overlap is still to be measured

    def item(self, key: str | None) -> Item | None:
        return next((item for item in self.items if item.key == key), self.items[0] if self.items else None)


def report(campaign: Campaign) -> Report:
    """The agreement as of the reads submitted so far; computed once for each state of the reads."""
    marks = Read.objects.filter(task__campaign=campaign).aggregate(last=Max("pk"))
    measured = Overlap.objects.filter(first__task__campaign=campaign).aggregate(n=Count("pk"))
    key = f"annotation-agreement-{campaign.pk}-{marks['last']}-{measured['n']}"
    return cache.get_or_set(key, lambda: _report(campaign), timeout=3600)  # type: ignore[return-value]


def _report(campaign: Campaign) -> Report:
    reads = overlaps.newest_reads(campaign)
    cases = overlaps.by_case(reads)
    readers = sorted({read.task.reader for read in reads}, key=lambda reader: reader.pk)
    items = [
        _question_item(question, cases, [reader.pk for reader in readers])
        for question in campaign.questions.all()
        if question.kind != Kind.TEXT
    ]
    dice = _dice_by_case(campaign, reads)
    for label in campaign.segment_labels.all():
        items.append(_segment_item(label.number, label.name, dice, [reader.pk for reader in readers]))
    waiting = sum(len(found) for found in overlaps.pending(campaign, reads).values())
    return Report(readers, items, _disagreements(campaign, cases, dice), waiting)


def _question_item(question: Question, cases: dict[int, list[Read]], readers: list[int]) -> Item:
    key = str(question.pk)
    table = []
    for reads in cases.values():
        given = {read.task.reader_id: read.answers.get(key) for read in reads}
        table.append([given.get(reader) for reader in readers])
    kind = Kind(question.kind)
    columns = {reader: [row[i] for row in table] for i, reader in enumerate(readers)}
    pairs: dict[tuple[int, int], Agreement] = {}
    for a, b in combinations(readers, 2):
        if kind == Kind.SCALE:
            pairs[a, b] = cohen_agreement(columns[a], columns[b], weights="quadratic", categories=SCALE)
        elif kind == Kind.NUMBER:
            pairs[a, b] = krippendorff_agreement(list(zip(columns[a], columns[b], strict=True)), level="interval")
        else:
            pairs[a, b] = cohen_agreement(columns[a], columns[b], categories=_categories(question))
    if kind == Kind.SCALE:
        overall, measure = krippendorff_agreement(table, level="ordinal"), "Cohen κ with quadratic weights"
    elif kind == Kind.NUMBER:
        overall, measure = krippendorff_agreement(table, level="interval"), "Krippendorff α"
    else:
        overall, measure = fleiss_agreement(table, categories=_categories(question)), "Cohen κ"
    return Item(f"q{question.pk}", question.text, measure, overall, pairs)


def _categories(question: Question) -> list[str]:
    return ["yes", "no"] if question.kind == Kind.YES_NO else list(question.choices)


@dataclass(frozen=True)
class _PairDice:
    first: int
    second: int
    number: int
    dice: float | None


def _dice_by_case(campaign: Campaign, reads: list[Read]) -> dict[int, list[_PairDice]]:
    """Measured overlaps between the reads that count, by case, with reader ids in order."""
    counting = {read.pk: read for read in reads}
    found: dict[int, list[_PairDice]] = {}
    rows = Overlap.objects.filter(first__task__campaign=campaign).values_list("first_id", "second_id", "number", "dice")
    for first, second, number, value in rows:
        if first in counting and second in counting:
            a, b = sorted([counting[first].task.reader_id, counting[second].task.reader_id])
            found.setdefault(counting[first].task.case_id, []).append(_PairDice(a, b, number, value))
    return found


def _segment_item(number: int, name: str, dice: dict[int, list[_PairDice]], readers: list[int]) -> Item:
    per_case, per_pair = [], {pair: [] for pair in combinations(readers, 2)}  # type: ignore[var-annotated]
    for rows in dice.values():
        values = [row.dice for row in rows if row.number == number and row.dice is not None]
        if values:
            per_case.append(sum(values) / len(values))
        for row in rows:
            if row.number == number and row.dice is not None:
                per_pair[row.first, row.second].append(row.dice)
    title = "Mean pairwise Dice"
    pairs = {pair: mean_agreement(values, name="Mean Dice") for pair, values in per_pair.items()}
    return Item(f"s{number}", name, title, mean_agreement(per_case, name=title), pairs)


def _disagreements(
    campaign: Campaign, cases: dict[int, list[Read]], dice: dict[int, list[_PairDice]]
) -> list[CaseDisagreement]:
    """Cases with two or more reads that are not all alike, the worst first."""
    spans = {str(q.pk): _span(str(q.pk), cases) for q in campaign.questions.all() if q.kind == Kind.NUMBER}
    labels = list(campaign.segment_labels.all())
    questions = [question for question in campaign.questions.all() if question.kind != Kind.TEXT]
    found = []
    for case, reads in cases.items():
        if len(reads) < 2:
            continue
        parts = [_differs(question, reads, spans) for question in questions]
        for label in labels:
            values = [row.dice for row in dice.get(case, []) if row.number == label.number and row.dice is not None]
            if values:
                mean = sum(values) / len(values)
                spread = f", lowest pair {min(values):.2f}" if len(values) > 1 else ""
                parts.append((1 - mean, f"{label.name}: Dice {mean:.2f}{spread}"))
        worst = sorted((part for part in parts if part is not None and part[0] > 0), reverse=True)
        if worst:
            name = reads[0].task.case.name
            found.append(CaseDisagreement(case, name, worst[0][0], len(reads), [text for _, text in worst]))
    return sorted(found, key=lambda item: (-item.score, item.name))


def _span(key: str, cases: dict[int, list[Read]]) -> float:
    values = [read.answers[key] for reads in cases.values() for read in reads if key in read.answers]
    return float(max(values) - min(values)) if values else 0.0


def _differs(question: Question, reads: list[Read], spans: dict[str, float]) -> tuple[float, str] | None:
    key = str(question.pk)
    title = question.text if question.text.endswith(("?", ":")) else f"{question.text}:"
    values: list[Any] = [read.answers[key] for read in reads if key in read.answers]
    if len(values) < 2:
        return None
    two = list(combinations(values, 2))
    if question.kind in (Kind.SCALE, Kind.NUMBER):
        span = 4.0 if question.kind == Kind.SCALE else spans[key]
        score = sum(abs(a - b) for a, b in two) / len(two) / span if span else 0.0
        return score, f"{title} {min(values)} to {max(values)}"
    score = sum(a != b for a, b in two) / len(two)
    counts = {value: values.count(value) for value in _categories(question) if value in values}
    return score, f"{title} " + " · ".join(f"{n} {value}" for value, n in counts.items())
