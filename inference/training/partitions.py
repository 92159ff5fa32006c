"""How a frozen cohort is gone through in rounds.

No round ever trains on a patient, or on a near-duplicate of an image, that it tests on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inference.errors import TrainingError
from studies.cohorts import freezing
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Cohort, ReferenceLabel

INNER_SHARE = 0.2  # of a round's training patients, on whom early stopping looks
# Why the training cases of a round teach nothing, in words, or empty.
Lacks = Callable[[Sequence[ReferenceLabel]], str]


@dataclass(frozen=True)
class Round:
    """One part of a cross-validation. problem: why the test cases cannot be judged, in words, or empty."""

    name: str
    training: list[ReferenceLabel]
    test: list[ReferenceLabel]
    problem: str = ""

    @property
    def test_patients(self) -> int:
        return len({entry.case.cohort_patient_id for entry in self.test})


def unit_of(entry: ReferenceLabel) -> tuple[str, int]:
    """What must stay together: the group of near-duplicates, or the patient."""
    place = entry.case.cohort_patient
    return ("patient", place.pk) if place.group is None else ("group", place.group)


def inner_split(
    entries: Sequence[ReferenceLabel], *, share: float, seed: int, kind: Callable[[ReferenceLabel], str]
) -> tuple[list[ReferenceLabel], list[ReferenceLabel]]:
    """(learn, validate): about `share` of the units of each kind for early stopping, decided by the seed.

    kind: of a case, such as its class. What must stay together stays together, and a kind never loses its last unit to
    the validation.
    """
    of_kind: dict[str, list[tuple[str, int]]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.case.name, entry.case_id)):
        units = of_kind.setdefault(kind(entry), [])
        if unit_of(entry) not in units:
            units.append(unit_of(entry))
    random = np.random.default_rng(seed)
    kept: set[tuple[str, int]] = set()
    taken: set[tuple[str, int]] = set()
    for name in sorted(of_kind, key=lambda name: (len(of_kind[name]), name)):
        free = [unit for unit in of_kind[name] if unit not in kept | taken]
        wanted = round(share * len(of_kind[name])) - len(taken & set(of_kind[name]))
        most = len(of_kind[name]) - 1 - len(taken & set(of_kind[name]))
        order = [free[place] for place in random.permutation(len(free))]
        number = max(0, min(wanted, most, len(order)))
        taken |= set(order[:number])
        kept |= set(order[number:])
    learn = [entry for entry in entries if unit_of(entry) not in taken]
    return learn, [entry for entry in entries if unit_of(entry) in taken]


def folds_of(cohort: Cohort) -> list[int]:
    """The folds in which the cohort was frozen, from 0."""
    found = cohort.patients.order_by("fold").values_list("fold", flat=True).distinct("fold")
    return [fold for fold in found if fold is not None]


def by_fold(entries: Sequence[ReferenceLabel], folds: Iterable[int], lacks: Lacks) -> list[Round]:
    """One round for each fold of the frozen cohort. Raises `TrainingError` where it has none."""
    of_fold: dict[int, list[ReferenceLabel]] = {fold: [] for fold in folds}
    for entry in entries:
        if entry.case.cohort_patient.fold is not None:
            of_fold[entry.case.cohort_patient.fold].append(entry)
    if len(of_fold) < 2:
        raise TrainingError(
            "The cohort was not frozen in folds.", "Freeze a cohort with folds, or leave one source out instead."
        )
    made = []
    for fold, test in sorted(of_fold.items()):
        training = [entry for other, part in of_fold.items() if other != fold for entry in part]
        made.append(_checked(Round(f"fold {fold + 1}", training, test), lacks))
    return made


def by_source(cohort: Cohort, entries: Sequence[ReferenceLabel], source: str, lacks: Lacks) -> list[Round]:
    """One round for each source: tested on its cases, trained on those of the others that share no patient with them.

    Cases of unknown source take no part. Raises `TrainingError`.
    """
    sources = sources_of(cohort, source)
    names = sorted({sources[entry.case_id] for entry in entries if entry.case_id in sources})
    if len(names) < 2:
        raise TrainingError(
            f"The cases of “{cohort.name}” come from one source only.", "Leave cross_validation.schemes at folds."
        )
    made = []
    for name in names:
        test = [entry for entry in entries if sources.get(entry.case_id) == name]
        kept = {unit_of(entry) for entry in test}
        training = [
            entry for entry in entries if sources.get(entry.case_id, name) != name and unit_of(entry) not in kept
        ]
        made.append(_checked(Round(f"without {name}", training, test), lacks))
    return made


def sources_of(cohort: Cohort, source: str) -> dict[int, str]:
    """Case id → source. Raises `TrainingError`."""
    try:
        return freezing.sources_of(cohort, source)
    except CohortError as error:
        raise TrainingError(error.cause, error.next_step) from error


def _checked(made: Round, lacks: Lacks) -> Round:
    if {unit_of(entry) for entry in made.training} & {unit_of(entry) for entry in made.test}:
        raise TrainingError(
            f"In {made.name} patients or near-duplicates would be on both sides.", "Freeze a cohort anew."
        )
    problem = "the reference standard has none of its cases" if not made.test else lacks(made.training)
    return Round(made.name, made.training, made.test, problem)
