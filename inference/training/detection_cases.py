"""Lesions with a place: what a reference standard holds about a case, and prepared for a detector.

Boxes and points come from the reference standard itself, or are drawn around the parts of its segmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import TrainingError
from inference.imaging import boxes, preprocessing
from inference.prediction.output import Finding
from inference.training.config import Config
from studies.cohorts.models import ReferenceLabel, ReferenceStandard
from studies.dicom.errors import ImageError
from studies.dicom.volume import Volume
from studies.volumes import load_image, load_masks

if TYPE_CHECKING:
    from inference.training.data import PreparedCase


def located(reference: ReferenceStandard, split: str = "") -> list[ReferenceLabel]:
    """Cases of which the reference standard says where lesions are, or that there are none; of one side of the split
    or all."""
    entries = reference.case_labels.all()
    if reference.kind == ReferenceStandard.Kind.BOXES:
        entries = entries.filter(values__has_key="boxes")
    else:
        entries = entries.filter(segmentation__isnull=False)
    if split:
        entries = entries.filter(case__cohort_patient__split=split)
    return list(
        entries.select_related("case__image", "case__study", "case__cohort_patient", "segmentation").order_by(
            "case__name", "case_id"
        )
    )


def lesions(entry: ReferenceLabel, volume: Volume, labels: Sequence[dict[str, Any]]) -> list[Finding]:
    """What is true of the case, for these labels; a point has equal corners, all else is a voxel thick at least.

    Raises `ImageError`, also where a box or point lies outside the image.
    """
    names = {label["name"].casefold(): label["name"] for label in labels}
    if "boxes" in entry.values:
        found = [
            Finding(names[box["label"].casefold()], 1.0, np.asarray(box["corners"], dtype=np.float64))
            for box in entry.values["boxes"]
            if box["label"].casefold() in names
        ]
        return [Finding.on_grid(lesion.label, 1.0, _in_image(lesion, volume), volume) for lesion in found]
    masks = load_masks(entry.segmentation, volume, labels)  # type: ignore[arg-type]
    return [
        Finding.on_grid(label["name"], 1.0, box, volume)
        for label, mask in zip(labels, masks, strict=True)
        for box in boxes.of_mask(mask)
    ]


def _in_image(lesion: Finding, volume: Volume) -> np.ndarray:
    """Its box in voxels, of which no side is shorter than a voxel, as an image can show nothing thinner."""
    box = lesion.box(volume)
    if (box[1] < -0.5).any() or (box[0] > np.array(volume.shape) - 0.5).any():
        first, last = Finding.on_grid("", 0.0, np.array([[-0.5] * 3, np.array(volume.shape) - 0.5]), volume).corners
        reach = ", ".join(
            f"{axis} {min(a, b):.0f} to {max(a, b):.0f}" for axis, a, b in zip("xyz", first, last, strict=True)
        )
        middle = ", ".join(f"{value:.0f}" for value in np.mean(lesion.corners, axis=0))
        raise ImageError(
            f"A lesion “{lesion.label}” at ({middle}) mm lies outside the image, which reaches over {reach} mm.",
            "Give corners in LPS mm (x to the left, y to the back, z to the head), or import the boxes again with the "
            "image that they were drawn on.",
        )
    if (box[0] == box[1]).all():
        return box
    half = np.maximum(box[1] - box[0], 1) / 2
    middle = box.mean(axis=0)
    return np.stack([middle - half, middle + half])


def load_case(entry: ReferenceLabel, config: Config, labels: Sequence[dict[str, Any]]) -> PreparedCase:
    """The image after preprocessing, and its lesions as a map: the value of lesion i (from 0) of class k (from 0) is
    1 + i · classes + k. Raises `ImageError`, `PreprocessingError` or `TrainingError`."""
    import torch

    from inference.training.data import PreparedCase

    volume = load_image(entry.case.image)
    truth = lesions(entry, volume, labels)
    prepared = preprocessing.prepare(volume, config["preprocessing"])
    classes = [label["name"] for label in labels]
    if len(truth) * len(classes) > boxes.MOST_IN_MAP:
        raise TrainingError(
            f"Case {entry.case.name} has {len(truth)} lesions; at most {boxes.MOST_IN_MAP // len(classes)} can be "
            "learned from one image.",
            "Leave the case out, or learn fewer labels.",
        )
    places, numbers, left_out = [], [], 0
    for number, lesion in enumerate(truth):
        box = lesion.box(prepared)
        if (box[0] == box[1]).all():
            half = config["detection"]["point_size"] / 2 / np.asarray(prepared.spacing)
            box = np.stack([box[0] - half, box[1] + half])
        if (box[1] < -0.5).any() or (box[0] > np.array(prepared.shape) - 0.5).any():
            left_out += 1  # cropped away by a step
            continue
        places.append(box)
        numbers.append(1 + number * len(classes) + classes.index(lesion.label))
    painted = boxes.paint(places, numbers, prepared.shape)
    return PreparedCase(
        entry.case.name,
        torch.from_numpy(prepared.array)[None],
        torch.from_numpy(painted),
        prepared.spacing,
        volume.anisotropy,
        left_out,
    )


def load_cases(
    entries: Sequence[ReferenceLabel],
    config: Config,
    labels: Sequence[dict[str, Any]],
    *,
    tick: Callable[[str], None],
) -> list[PreparedCase]:
    """Every case in memory; `tick` is called with the name of each before it is read."""
    from inference.training import cases

    return cases.load_each(entries, lambda entry: load_case(entry, config, labels), tick=tick)
