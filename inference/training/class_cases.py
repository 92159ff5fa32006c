"""Cases with a class, prepared for a classifier, and how a frozen cohort is gone through in rounds.

No round ever trains on a patient, or on a near-duplicate of an image, that it tests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference.errors import TrainingError
from inference.imaging import grids, preprocessing
from inference.training.cases import check_room
from inference.training.config import Config
from studies.cohorts import freezing
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Cohort, ReferenceLabel, ReferenceStandard
from studies.dicom.volume import Volume
from studies.volumes import load_image

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ClassifiedCase:
    """image: float32 [1, z, y, x] of the configuration's patch; number: place of its class, from 0; anisotropy: of the
    image's own voxels, before preprocessing."""

    name: str
    image: Tensor
    number: int
    anisotropy: float = 1.0


@dataclass(frozen=True)
class Round:
    """One part of a cross-validation. problem: why the test cases cannot be judged, in words, or empty."""

    name: str
    training: list[ReferenceLabel]
    test: list[ReferenceLabel]
    problem: str = ""


def choose_classes(reference: ReferenceStandard, wanted: Sequence[str]) -> list[str]:
    """The classes to learn, in the order of the reference standard. Raises `TrainingError`."""
    if reference.kind != ReferenceStandard.Kind.CLASSIFICATION:
        raise TrainingError(
            f"The reference standard “{reference}” gives no classes.",
            "Choose a classification, or set task to segmentation.",
        )
    absent = [name for name in wanted if name not in reference.classes]
    if absent:
        raise TrainingError(
            f"The reference standard “{reference}” has no class {absent[0]!r}.",
            f"Choose from: {', '.join(reference.classes)}.",
        )
    chosen = [name for name in reference.classes if not wanted or name in wanted]
    if len(chosen) < 2:
        raise TrainingError("A classifier needs two classes or more.", "Name more of them in data.structures.")
    return chosen


def classified(reference: ReferenceStandard, classes: Sequence[str], split: str = "") -> list[ReferenceLabel]:
    """Cases that have one of the classes, of one side of the split or all."""
    entries = reference.case_labels.filter(values__class__in=list(classes))
    if split:
        entries = entries.filter(case__cohort_patient__split=split)
    return list(
        entries.select_related("case__image", "case__study", "case__cohort_patient").order_by("case__name", "case_id")
    )


def fitted(volume: Volume, config: Config) -> np.ndarray:
    """The prepared image [z, y, x] in the size that the network takes, cut or its edges repeated about the centre."""
    array = preprocessing.prepare(volume, config["preprocessing"]).array
    return grids.to_size(array, config["inference"]["window"])


def load(
    entries: Sequence[ReferenceLabel], config: Config, classes: Sequence[str], *, tick: Callable[[str], None]
) -> dict[int, ClassifiedCase]:
    """Case id → prepared image; `tick` is called with the name of each before it is read. Raises `TrainingError`."""
    import torch

    found: dict[int, ClassifiedCase] = {}
    held = 0
    for entry in entries:
        tick(entry.case.name)
        try:
            volume = load_image(entry.case.image)
            array = fitted(volume, config)
        except Exception as error:
            cause = getattr(error, "cause", None)
            if not isinstance(cause, str):
                raise
            raise TrainingError(f"Case {entry.case.name}: {cause}", getattr(error, "next_step", "")) from error
        number = list(classes).index(entry.values["class"])
        found[entry.case_id] = ClassifiedCase(entry.case.name, torch.from_numpy(array)[None], number, volume.anisotropy)
        held += array.nbytes
        check_room(held, len(found), len(entries))
    return found


def check_classes(training: Sequence[ClassifiedCase], classes: Sequence[str]) -> None:
    """Raise `TrainingError` where a class to learn is never shown."""
    seen = {case.number for case in training}
    absent = [name for number, name in enumerate(classes) if number not in seen]
    if absent:
        raise TrainingError(
            f"None of the {len(training)} training cases shows {', '.join(absent)}.",
            "Leave the class out with data.structures, or freeze a cohort whose split is balanced by class.",
        )


def unit_of(entry: ReferenceLabel) -> tuple[str, int]:
    """What must stay together: the group of near-duplicates, or the patient."""
    place = entry.case.cohort_patient
    return ("patient", place.pk) if place.group is None else ("group", place.group)


def inner_split(
    entries: Sequence[ReferenceLabel], *, share: float, seed: int
) -> tuple[list[ReferenceLabel], list[ReferenceLabel]]:
    """(learn, validate): about `share` of the units of each class for early stopping, decided by the seed.

    What must stay together stays together, and a class never loses its last unit to the validation.
    """
    of_class: dict[str, list[tuple[str, int]]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.case.name, entry.case_id)):
        units = of_class.setdefault(entry.values["class"], [])
        if unit_of(entry) not in units:
            units.append(unit_of(entry))
    random = np.random.default_rng(seed)
    kept: set[tuple[str, int]] = set()
    taken: set[tuple[str, int]] = set()
    for name in sorted(of_class, key=lambda name: (len(of_class[name]), name)):
        free = [unit for unit in of_class[name] if unit not in kept | taken]
        wanted = round(share * len(of_class[name])) - len(taken & set(of_class[name]))
        most = len(of_class[name]) - 1 - len(taken & set(of_class[name]))
        order = [free[place] for place in random.permutation(len(free))]
        number = max(0, min(wanted, most, len(order)))
        taken |= set(order[:number])
        kept |= set(order[number:])
    learn = [entry for entry in entries if unit_of(entry) not in taken]
    return learn, [entry for entry in entries if unit_of(entry) in taken]


def by_fold(entries: Sequence[ReferenceLabel]) -> list[Round]:
    """One round for each fold of the frozen cohort. Raises `TrainingError` where it has none."""
    of_fold: dict[int, list[ReferenceLabel]] = {}
    for entry in entries:
        if entry.case.cohort_patient.fold is not None:
            of_fold.setdefault(entry.case.cohort_patient.fold, []).append(entry)
    if len(of_fold) < 2:
        raise TrainingError(
            "The cohort was not frozen in folds.", "Freeze a cohort with folds, or leave one source out instead."
        )
    made = []
    for fold, test in sorted(of_fold.items()):
        training = [entry for other, part in of_fold.items() if other != fold for entry in part]
        made.append(_checked(Round(f"fold {fold + 1}", training, test)))
    return made


def by_source(cohort: Cohort, entries: Sequence[ReferenceLabel], source: str) -> list[Round]:
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
        made.append(_checked(Round(f"without {name}", training, test)))
    return made


def sources_of(cohort: Cohort, source: str) -> dict[int, str]:
    """Case id → source. Raises `TrainingError`."""
    try:
        return freezing.sources_of(cohort, source)
    except CohortError as error:
        raise TrainingError(error.cause, error.next_step) from error


def _checked(made: Round) -> Round:
    if {unit_of(entry) for entry in made.training} & {unit_of(entry) for entry in made.test}:
        raise TrainingError(
            f"In {made.name} patients or near-duplicates would be on both sides.", "Freeze a cohort anew."
        )
    learned = {entry.values["class"] for entry in made.training}
    if len(learned) < 2:
        only = next(iter(learned), "nothing")
        return Round(made.name, made.training, made.test, f"the training cases show {only} alone")
    return made
