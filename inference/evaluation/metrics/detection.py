"""How good boxes with scores are: which box hits which lesion, the FROC curve, its mean sensitivity, average precision.

Sources: Bunch et al., J Appl Photogr Eng 1978;4:166 (FROC); Setio et al., Med Image Anal 2017;42:1 (mean sensitivity at
1/8 to 8 false positives per scan); Everingham et al., IJCV 2015;111:98 (average precision); Chakraborty, Acad Radiol
2013;20:915 (AFROC). No database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.imaging.boxes import iou

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per image


@dataclass(frozen=True)
class Marks:
    """The boxes of one image, one label. hit: number of the lesion that each box hits, -1 for none; a lesion that was
    hit by a more probable box already is in `again`. lesions: how many the image has."""

    scores: np.ndarray
    hit: np.ndarray
    again: np.ndarray
    lesions: int


def match(boxes: np.ndarray, scores: Sequence[float], lesions: np.ndarray, *, overlap: float = 0.1) -> Marks:
    """boxes [n, 2, 3] against lesions [m, 2, 3], both in mm or in voxels.

    From the most probable box on, each box hits the lesion that it overlaps most, where intersection over union is
    `overlap` or more, or where box or lesion is a point that lies within the other.
    """
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    boxes, values = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 3)[order], values[order]
    lesions = np.asarray(lesions, dtype=np.float64).reshape(-1, 2, 3)
    hit, again = np.full(len(boxes), -1), np.zeros(len(boxes), dtype=bool)
    if len(lesions):
        shared = iou(boxes, lesions)
        shared = np.where(_point_inside(boxes, lesions), 1.0, shared)
        taken: set[int] = set()
        for number, row in enumerate(shared):
            possible = np.flatnonzero(row >= max(overlap, 1e-9))
            if not len(possible):
                continue
            free = [place for place in possible.tolist() if place not in taken]
            best = max(free or possible.tolist(), key=lambda place: row[place])
            hit[number], again[number] = best, not free
            taken.add(best)
    return Marks(values, hit, again, len(lesions))


def _point_inside(boxes: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """[n, m]: one of the two is a point and the other holds it."""
    points = (boxes[:, 1] == boxes[:, 0]).all(-1)[:, None] | (lesions[:, 1] == lesions[:, 0]).all(-1)[None]
    near = np.maximum(boxes[:, None, 0], lesions[None, :, 0])
    far = np.minimum(boxes[:, None, 1], lesions[None, :, 1])
    inside: np.ndarray = points & (far >= near).all(-1)
    return inside


def froc(marks: Sequence[Marks]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positives per image, sensitivity and threshold of each point of the curve, from the strictest on.

    Starts at (0, 0). Further boxes on a lesion that was hit already count neither as hit nor as false positive.
    Raises `ValueError` without images or without lesions.
    """
    lesions = sum(image.lesions for image in marks)
    if not marks or not lesions:
        raise ValueError("The curve needs images and lesions")
    hits = np.concatenate([image.scores[(image.hit >= 0) & ~image.again] for image in marks])
    false = np.concatenate([image.scores[image.hit < 0] for image in marks])
    thresholds = np.unique(np.concatenate([hits, false]))[::-1]
    found = np.searchsorted(np.sort(-hits), -thresholds, side="right")
    wrong = np.searchsorted(np.sort(-false), -thresholds, side="right")
    return (
        np.concatenate([[0.0], wrong / len(marks)]),
        np.concatenate([[0.0], found / lesions]),
        np.concatenate([[np.inf], thresholds]),
    )


def sensitivities(marks: Sequence[Marks], rates: Sequence[float] = RATES) -> np.ndarray:
    """Sensitivity at each rate of false positives an image, by linear interpolation; beyond the curve the last one."""
    x, y, _ = froc(marks)
    return np.interp(rates, x, y)


def mean_sensitivity(marks: Sequence[Marks]) -> float:
    """The FROC score: mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per image."""
    return float(sensitivities(marks).mean())


def average_precision(marks: Sequence[Marks]) -> float:
    """Area under precision over recall, precision made to fall only; a further box on a lesion is a false positive.

    Raises `ValueError` without lesions.
    """
    lesions = sum(image.lesions for image in marks)
    if not lesions:
        raise ValueError("Average precision needs lesions")
    scores = np.concatenate([image.scores for image in marks])
    right = np.concatenate([(image.hit >= 0) & ~image.again for image in marks])[np.argsort(-scores, kind="stable")]
    if not len(right):
        return 0.0
    recall = np.cumsum(right) / lesions
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.concatenate([[0.0], recall])) * falling).sum())


def afroc(marks: Sequence[Marks]) -> float:
    """AFROC figure of merit: how probable a lesion's score is higher than the highest false score of an image without
    lesions; a lesion that was not found scores below all, ties count half.

    Raises `ValueError` where lesions or images without lesions are missing.
    """
    found: list[float] = []
    for image in marks:
        hits = image.scores[(image.hit >= 0) & ~image.again].tolist()
        found += hits + [-np.inf] * (image.lesions - len(hits))
    highest = [float(max(image.scores, default=-np.inf)) for image in marks if not image.lesions]
    if not found or not highest:
        raise ValueError("AFROC needs images with and without lesions")
    first, second = np.array(found)[:, None], np.array(highest)[None]
    return float(((first > second) + 0.5 * (first == second)).mean())
