"""Cases with a class, prepared for a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference.errors import TrainingError
from inference.imaging import grids, preprocessing
from inference.training.cases import check_room
from inference.training.config import Config
from studies.cohorts.models import ReferenceLabel, ReferenceStandard
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


def one_class_alone(training: Sequence[ReferenceLabel]) -> str:
    """Why nothing can be told apart after learning from these cases, in words, or empty."""
    learned = {entry.values["class"] for entry in training}
    return "" if len(learned) > 1 else f"the training cases show {next(iter(learned), 'nothing')} alone"
