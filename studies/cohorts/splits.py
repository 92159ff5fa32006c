"""Which patient goes to which side of a split: the same for the same patients, fractions and seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

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
    ordered = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\x1f{key}".encode()).hexdigest())
    allotted, start = {}, 0
    for side, size in sizes.items():
        for key in ordered[start : start + size]:
            allotted[key] = side
        start += size
    return allotted
