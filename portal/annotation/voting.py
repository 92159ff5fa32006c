"""One reading out of several. No database: arrays and lists in, arrays and values out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import SimpleITK as sitk


def majority(votes: Sequence[Hashable]) -> Hashable | None:
    """The answer that more readers gave than any other; None where two are equally frequent or nobody answered."""
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def middle(values: Sequence[float]) -> float | None:
    """The median: the majority of an ordered answer. With an even number of readers it may lie between two values."""
    if not values:
        return None
    found = float(statistics.median(values))
    return int(found) if found.is_integer() else found


def majority_map(maps: Sequence[np.ndarray], numbers: Sequence[int]) -> np.ndarray:
    """Label map [z, y, x] with the label that more than half of the readers drew at a voxel; a tie is background."""
    agreed = np.zeros(maps[0].shape, dtype=np.uint8)
    for number in numbers:
        votes = np.zeros(maps[0].shape, dtype=np.uint16)
        for drawn in maps:
            votes += drawn == number
        agreed[2 * votes > len(maps)] = number
    return agreed


def staple_map(maps: Sequence[np.ndarray], numbers: Sequence[int]) -> np.ndarray:
    """Label map by STAPLE (Warfield, Zou and Wells 2004), one binary estimate for each label.

    A voxel gets the label with the highest probability where that is at least one half. A label that nobody drew, or
    that all drew alike, needs no estimate.
    """
    best = np.full(maps[0].shape, 0.5)
    agreed = np.zeros(maps[0].shape, dtype=np.uint8)
    for number in numbers:
        masks = [(drawn == number).astype(np.uint8) for drawn in maps]
        if not any(mask.any() for mask in masks):
            continue
        if all((mask == masks[0]).all() for mask in masks):
            probability = masks[0].astype(float)
        else:
            images = [sitk.GetImageFromArray(mask) for mask in masks]
            probability = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
        wins = probability >= best
        wins &= (probability > best) | (agreed == 0)
        agreed[wins] = number
        best = np.where(wins, probability, best)
    return agreed
