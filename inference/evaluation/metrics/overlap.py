"""Overlap of two masks, voxel by voxel.

Conventions for empty masks, so that a mean over cases means something: a value whose denominator is 0 is undefined and
None. Dice and IoU are therefore None only where both masks are empty, and 0 where one of them is. Sources: Taha and
Hanbury, BMC Med Imaging 2015;15:29; Maier-Hein et al. (Metrics Reloaded), Nat Methods 2024;21:195.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Voxels: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def count(reference: np.ndarray, predicted: np.ndarray) -> Counts:
    """Voxel counts of two boolean arrays of one shape. Raises `ValueError` where the shapes differ."""
    if reference.shape != predicted.shape:
        raise ValueError(f"The reference has shape {reference.shape}, the prediction {predicted.shape}")
    reference, predicted = reference.astype(bool), predicted.astype(bool)
    tp = int(np.count_nonzero(reference & predicted))
    fp = int(np.count_nonzero(predicted)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return Counts(tp, fp, fn, reference.size - tp - fp - fn)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


def dice_of(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou_of(counts: Counts) -> float | None:
    """TP / (TP + FP + FN), the Jaccard index."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def sensitivity_of(counts: Counts) -> float | None:
    """TP / (TP + FN); None where the reference is empty."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity_of(counts: Counts) -> float | None:
    """TN / (TN + FP); None where the reference fills the image. It depends on how much background was imaged."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def precision_of(counts: Counts) -> float | None:
    """TP / (TP + FP), the positive predictive value; None where nothing is predicted."""
    return _ratio(counts.tp, counts.tp + counts.fp)


def dice(reference: np.ndarray, predicted: np.ndarray) -> float | None:
    """Dice coefficient of two boolean arrays; None where both are empty."""
    return dice_of(count(reference, predicted))
