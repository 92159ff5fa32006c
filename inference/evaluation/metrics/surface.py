"""Distances between the surfaces of two masks, in mm.

The surface runs between voxels: every 2×2(×2) neighbourhood that is neither full nor empty is a surface element,
weighted by the area (length in 2-D) of its marching-cubes surface, so that results do not depend on the voxel's shape.
Source: Nikolov et al., J Med Internet Res 2021;23:e26151, and their package surface-distance; the tables of areas are
MONAI's.
All values are None where one of the masks is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.utils import (
    create_table_neighbour_code_to_contour_length,
    create_table_neighbour_code_to_surface_area,
)
from scipy.ndimage import correlate, distance_transform_edt


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances (mm, ascending) from each surface to the other one, each with the area (mm²) of its element."""

    reference_to_predicted: np.ndarray
    reference_areas: np.ndarray
    predicted_to_reference: np.ndarray
    predicted_areas: np.ndarray

    def hausdorff(self, percent: float = 95.0) -> float:
        """The larger of the two percentiles of the distances; 100 gives the Hausdorff distance."""
        return max(
            _percentile(self.reference_to_predicted, self.reference_areas, percent),
            _percentile(self.predicted_to_reference, self.predicted_areas, percent),
        )

    def average(self) -> float:
        """ASSD: the average symmetric surface distance, both surfaces together, weighted by area."""
        total = (self.reference_to_predicted * self.reference_areas).sum()
        total += (self.predicted_to_reference * self.predicted_areas).sum()
        return float(total / (self.reference_areas.sum() + self.predicted_areas.sum()))

    def directed_averages(self) -> tuple[float, float]:
        """Average distance from the reference to the prediction, and back."""
        return (
            float((self.reference_to_predicted * self.reference_areas).sum() / self.reference_areas.sum()),
            float((self.predicted_to_reference * self.predicted_areas).sum() / self.predicted_areas.sum()),
        )

    def normalised_surface_dice(self, tolerance: float) -> float:
        """NSD: the share of both surfaces that lies within `tolerance` mm of the other."""
        near = self.reference_areas[self.reference_to_predicted <= tolerance].sum()
        near += self.predicted_areas[self.predicted_to_reference <= tolerance].sum()
        return float(near / (self.reference_areas.sum() + self.predicted_areas.sum()))


def surface_distances(
    reference: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]
) -> SurfaceDistances | None:
    """Distances between the surfaces of two boolean arrays, 2-D or 3-D; `spacing` in mm in the order of the axes.

    None where one of the masks is empty. Raises `ValueError` where shapes or spacing do not fit.
    """
    if reference.shape != predicted.shape or reference.ndim not in (2, 3) or len(spacing) != reference.ndim:
        raise ValueError(f"Shapes {reference.shape} and {predicted.shape} with spacing {tuple(spacing)} do not fit")
    reference, predicted = reference.astype(bool), predicted.astype(bool)
    if not reference.any() or not predicted.any():
        return None
    box = []
    for axis in range(reference.ndim):
        others = tuple(a for a in range(reference.ndim) if a != axis)
        found = np.flatnonzero((reference | predicted).any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    table, kernel = _table(tuple(float(s) for s in spacing))
    codes_reference = _codes(reference[tuple(box)], kernel)
    codes_predicted = _codes(predicted[tuple(box)], kernel)
    full = len(table) - 1
    border_reference = (codes_reference != 0) & (codes_reference != full)
    border_predicted = (codes_predicted != 0) & (codes_predicted != full)
    to_reference = distance_transform_edt(~border_reference, sampling=spacing)
    to_predicted = distance_transform_edt(~border_predicted, sampling=spacing)
    return SurfaceDistances(
        *_ascending(to_predicted[border_reference], table[codes_reference[border_reference]]),
        *_ascending(to_reference[border_predicted], table[codes_predicted[border_predicted]]),
    )


def _table(spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    create = (
        create_table_neighbour_code_to_surface_area
        if len(spacing) == 3
        else create_table_neighbour_code_to_contour_length
    )
    table, kernel = create(spacing, device=torch.device("cpu"))
    return np.asarray(table, dtype=np.float64), np.asarray(kernel).reshape([2] * len(spacing))


def _codes(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The code of every 2×2(×2) neighbourhood, on a grid that is larger by one on each axis."""
    padded = np.pad(mask, [(0, 1)] * mask.ndim).astype(np.int64)
    return correlate(padded, kernel.astype(np.int64), mode="constant", cval=0)


def _ascending(distances: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(distances, kind="stable")
    return distances[order], areas[order]


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    if percent >= 100:
        return float(distances[-1])
    share = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(share, percent / 100)), len(distances) - 1)])
