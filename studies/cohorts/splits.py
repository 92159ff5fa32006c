"""Which patient goes to which side of a split: the same for the same patients, fractions and seed.

What is allotted are units: a patient, or patients that belong together because images of theirs look the same.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from studies.cohorts.errors import CohortError
from studies.cohorts.models import Split

DEFAULT_FRACTIONS: Mapping[str, float] = {Split.TRAIN: 0.7, Split.VALIDATION: 0.1, Split.TEST: 0.2}
SIDES = (Split.TRAIN, Split.VALIDATION, Split.TEST)


def checked_fractions(fractions: Mapping[str, float]) -> dict[Split, float]:
    """Fractions of the sides that get patients. Raises `CohortError` (`fractions`)."""
    try:
        made = {Split(name): float(value) for name, value in fractions.items()}
    except (ValueError, TypeError):
        made = {}
    total = sum(made.values())
    if (
        not made
        or Split.NONE in made
        or not all(math.isfinite(value) and value >= 0 for value in made.values())
        or not math.isclose(total, 1, abs_tol=1e-6)
    ):
        raise CohortError(
            "fractions",
            "The fractions of training, validation and test must be numbers from 0 to 1 that add up to 1.",
            "For example 0.7, 0.1 and 0.2; a cohort that only tests has 0, 0 and 1.",
        )
    return {side: made[side] for side in SIDES if made.get(side, 0) > 0}


def allot(keys: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, Split]:
    """Patient key → side.

    Patients are ordered by the SHA-256 of seed and key, so neither the order of import nor other cohorts matter. Sizes
    are rounded by largest remainder, and each side with a fraction above 0 gets at least one patient.
    Raises `CohortError` (`fractions`, `too_few_patients`).
    """
    wanted = checked_fractions(fractions)
    count = len(keys)
    if count < len(wanted):
        sides = ", ".join(Split(side).label.lower() for side in wanted)
        raise CohortError(
            "too_few_patients",
            f"The cohort has {count} patient{'' if count == 1 else 's'}; a split by patient into {sides} needs at least"
            f" {len(wanted)}, and one side would be empty.",
            "Add studies of other patients, or give every patient to one side.",
        )
    sizes = {side: math.floor(fraction * count + 1e-9) for side, fraction in wanted.items()}
    by_remainder = sorted(wanted, key=lambda side: (-(wanted[side] * count - sizes[side]), SIDES.index(side)))
    for side in by_remainder[: count - sum(sizes.values())]:
        sizes[side] += 1
    for side in wanted:
        if sizes[side] == 0:
            largest = max(sizes, key=lambda other: sizes[other])
            sizes[largest] -= 1
            sizes[side] = 1
    ordered = sorted(keys, key=lambda key: _chance(key, seed))
    allotted, start = {}, 0
    for side, size in sizes.items():
        for key in ordered[start : start + size]:
            allotted[key] = side
        start += size
    return allotted


def joined(keys: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Key → the key of its unit, the lowest of all that are linked with it, directly or by others."""
    of = {key: key for key in keys}

    def root(key: str) -> str:
        while of[key] != key:
            of[key] = of[of[key]]
            key = of[key]
        return key

    for one, other in links:
        lower, higher = sorted((root(one), root(other)))
        of[higher] = lower
    return {key: root(key) for key in of}


def stratified(
    units: Mapping[str, Mapping[Hashable, int]], fractions: Mapping[Hashable, float], seed: int
) -> dict[str, Hashable]:
    """Unit → side, so that every stratum is shared out as the fractions say, as nearly as whole units allow.

    units: unit → number of its cases in each stratum. fractions: side → share, adding up to 1.
    Units go in the order of their size, equals by the SHA-256 of seed and key, each to the side that lacks most of what
    the unit brings: with d the share of stratum s that a side has already, f the share it should have, g the cases of
    the unit and N those of the stratum, to the side with the largest sum over s of g/N (f - d). This is the greedy
    descent on the sum of squares of (d - f). No side stays empty where there are as many units as sides.
    """
    totals: Counter[Hashable] = Counter()
    for strata in units.values():
        totals.update(strata)
    sizes = {key: sum(strata.values()) for key, strata in units.items()}
    has: dict[Hashable, Counter[Hashable]] = {side: Counter() for side in fractions}
    members: dict[Hashable, list[str]] = {side: [] for side in fractions}
    for key in sorted(units, key=lambda key: (-sizes[key], _chance(key, seed))):

        def lack(side: Hashable, strata: Mapping[Hashable, int] = units[key]) -> float:
            return sum(n / totals[s] * (fractions[side] - has[side][s] / totals[s]) for s, n in strata.items())

        best = max(lack(side) for side in fractions)
        # Shares are compared to within rounding; among equals chance decides, not the order of the sides.
        equals = [side for side in fractions if lack(side) >= best - 1e-12]
        side = min(equals, key=lambda side: (len(members[side]), _chance(f"{key}\x1f{side}", seed)))
        has[side].update(units[key])
        members[side].append(key)
    for side in fractions:
        if not members[side]:
            richest = max(members, key=lambda other: len(members[other]))
            if len(members[richest]) > 1:
                members[side].append(members[richest].pop())  # the smallest unit came last
    return {key: side for side, keys in members.items() for key in keys}


def by_source(units: Mapping[str, Mapping[Hashable, int]], sources: Mapping[str, set[str]]) -> dict[str, str]:
    """Unit → its only source. Raises `CohortError` (`sources`) where a unit has none or several, or all have one."""
    without = [key for key in units if not sources.get(key)]
    several = [key for key in units if len(sources.get(key, ())) > 1]
    if without or several:
        raise CohortError(
            "sources",
            f"{len(without)} patients or groups have no source, {len(several)} have several; leaving one source out"
            " would leave their images on both sides.",
            "Give every case one source, or take these cases out of the cohort.",
        )
    found = {key: next(iter(sources[key])) for key in units}
    if len(set(found.values())) < 2:
        raise CohortError(
            "sources", "All cases come from one source, so none can be left out.", "Choose folds by patient instead."
        )
    return found


def table(rows: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, Counter[Hashable]]:
    """(side, class) of each case → side → class → cases."""
    counts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for side, kind in rows:
        counts[side][kind] += 1
    return counts


def _chance(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\x1f{key}".encode()).hexdigest()
