"""Cases of a frozen cohort, prepared for training. The split is the cohort's; nothing here draws another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import TrainingError
from inference.imaging import preprocessing
from inference.training.config import Config
from studies.cohorts.models import Cohort, ReferenceLabel, ReferenceStandard, Split
from studies.volumes import load_label_map, load_volume

if TYPE_CHECKING:
    from inference.training.data import PreparedCase


def find_cohort(cohort: Cohort) -> None:
    """Raise `TrainingError` unless the cohort can be trained on."""
    if not cohort.frozen:
        raise TrainingError(
            f"The cohort “{cohort.name}” is not frozen, so it has no split into training and test patients yet.",
            "Freeze it on its page; the members are then fixed and each patient gets one place in the split.",
        )
    patients = cohort.patients.count()
    if patients < 2:
        raise TrainingError(
            f"The cohort “{cohort.name}” has {'one patient' if patients == 1 else 'no patients'}; training needs some "
            "and testing needs others.",
            "Add studies of more patients to a new cohort.",
        )
    for split, what in ((Split.TRAIN, "training"), (Split.TEST, "test")):
        if not cohort.patients.filter(split=split).exists():
            raise TrainingError(
                f"The split of the cohort “{cohort.name}” has no {what} patients.",
                "Freeze a cohort with a share for each of training and test.",
            )


def choose_labels(reference: ReferenceStandard, structures: Sequence[str]) -> list[dict[str, Any]]:
    """The labels to learn, numbered 1, 2, … in the order of the reference standard. Raises `TrainingError`."""
    known = [label["name"] for label in reference.labels]
    absent = [name for name in structures if name not in known]
    if absent:
        raise TrainingError(
            f"The reference standard “{reference}” has no structure {absent[0]!r}.",
            f"Choose from: {', '.join(known) or 'none'}.",
        )
    chosen = [label for label in reference.labels if not structures or label["name"] in structures]
    if not chosen:
        raise TrainingError(
            f"The reference standard “{reference}” has no structures to segment.",
            "Choose one that was imported or drawn as segmentation.",
        )
    return [{**label, "number": number} for number, label in enumerate(chosen, start=1)]


def labelled_cases(reference: ReferenceStandard, split: str) -> list[ReferenceLabel]:
    """Cases of one side of the split that have a segmentation in this reference standard."""
    return list(
        reference.case_labels.filter(segmentation__isnull=False, case__cohort_patient__split=split)
        .select_related("case__image", "segmentation")
        .order_by("case__name", "case_id")
    )


def load_case(entry: ReferenceLabel, config: Config, labels: Sequence[dict[str, Any]]) -> PreparedCase:
    """Image and label map after preprocessing. Raises `ImageError` or `PreprocessingError`."""
    import torch

    from inference.training.data import PreparedCase

    volume = load_volume(entry.case.image)
    label_map = load_label_map(entry.segmentation, volume, labels)  # type: ignore[arg-type]
    prepared = preprocessing.prepare(volume, config["preprocessing"])
    on_grid = preprocessing.resample_labels(volume.like(label_map), prepared)
    return PreparedCase(
        entry.case.name, torch.from_numpy(prepared.array)[None], torch.from_numpy(on_grid.astype(np.uint8))
    )


def load_cases(
    entries: Sequence[ReferenceLabel],
    config: Config,
    labels: Sequence[dict[str, Any]],
    *,
    tick: Callable[[str], None],
) -> list[PreparedCase]:
    """Every case in memory; `tick` is called with the name of each before it is read."""
    cases = []
    for entry in entries:
        tick(entry.case.name)
        try:
            cases.append(load_case(entry, config, labels))
        except Exception as error:
            cause = getattr(error, "cause", None)
            if not isinstance(cause, str):
                raise
            raise TrainingError(f"Case {entry.case.name}: {cause}", getattr(error, "next_step", "")) from error
    return cases
