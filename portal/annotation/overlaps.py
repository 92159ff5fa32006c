"""Dice between readers, measured once for each pair of reads in the background and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from inference.jobs.models import Job
from inference.jobs.services import submit as submit_job
from portal.accounts.models import User
from portal.annotation import segmentations
from portal.annotation.models import Campaign, Overlap, Read
from studies.cohorts.models import Case


def dice(first: np.ndarray, second: np.ndarray) -> float | None:
    """2 |A ∩ B| / (|A| + |B|) of two masks (Dice 1945); None where both are empty."""
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else None


def newest_reads(campaign: Campaign) -> list[Read]:
    """The read of every submitted task that counts, ordered by case and reader."""
    reads = (
        Read.objects.filter(task__campaign=campaign)
        .order_by("task_id", "-version")
        .distinct("task_id")
        .select_related("task__case", "task__reader")
    )
    return sorted(reads, key=lambda read: (read.task.case.name, read.task.case_id, read.task.reader_id))


def by_case(reads: list[Read]) -> dict[int, list[Read]]:
    cases: dict[int, list[Read]] = {}
    for read in reads:
        cases.setdefault(read.task.case_id, []).append(read)
    return cases


def pairs(reads: list[Read]) -> Iterator[tuple[Read, Read]]:
    """Every two reads of a case, the older one first."""
    yield from combinations(sorted(reads, key=lambda read: read.pk), 2)


def pending(campaign: Campaign, reads: list[Read] | None = None) -> dict[int, list[tuple[Read, Read]]]:
    """Pairs of reads whose overlap is not measured yet, by case."""
    if not campaign.segment_labels.exists():
        return {}
    known = set(Overlap.objects.filter(first__task__campaign=campaign).values_list("first_id", "second_id").distinct())
    waiting = {
        case: [(a, b) for a, b in pairs(own) if (a.pk, b.pk) not in known]
        for case, own in by_case(newest_reads(campaign) if reads is None else reads).items()
    }
    return {case: found for case, found in waiting.items() if found}


def measure(campaign: Campaign, report: Callable[[float, str], Any] = lambda fraction, text: None) -> int:
    """Measure what is pending; returns the number of pairs. `report` is told the progress and may raise to stop."""
    waiting = pending(campaign)
    labels = segmentations.labels_of(campaign)
    measured = 0
    for done, (case_id, found) in enumerate(waiting.items()):
        case = Case.objects.select_related("image").get(pk=case_id)
        report(done / len(waiting), f"case {done + 1} of {len(waiting)}")
        like = segmentations.grid(case.image)
        maps: dict[int, np.ndarray] = {}
        for read in {read.pk: read for pair in found for read in pair}.values():
            instance = segmentations.instance_of(read)
            maps[read.pk] = (
                np.zeros(like.shape, dtype=np.uint8)
                if instance is None
                else segmentations.label_map(instance, like, labels)
            )
        rows = [
            Overlap(
                first=a,
                second=b,
                number=label["number"],
                dice=dice(maps[a.pk] == label["number"], maps[b.pk] == label["number"]),
            )
            for a, b in found
            for label in labels
        ]
        Overlap.objects.bulk_create(rows, ignore_conflicts=True)
        measured += len(found)
    return measured


def request_measurement(campaign: Campaign, *, by: User | None) -> Job | None:
    """Have pending overlaps measured in the background; one waiting job for a campaign is enough."""
    from portal.annotation.tasks import measure_overlaps

    if not pending(campaign):
        return None
    waiting = Job.objects.filter(
        task=measure_overlaps.name, state=Job.State.QUEUED, parameters__campaign=campaign.pk
    ).first()
    return waiting or submit_job(
        measure_overlaps,
        project=campaign.project,
        title=f"Overlap between readers, {campaign.name}",
        parameters={"campaign": campaign.pk},
        by=by,
    )
