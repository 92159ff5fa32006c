"""What a model says about one image, before it is stored. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studies.dicom.volume import Volume


@dataclass(frozen=True)
class Finding:
    """Something found at a place: a box whose edges run along the axes of the image.

    corners: float [2, 3], (x, y, z) in LPS mm of two opposite corners, those of the lowest and of the highest voxel
    index. They lie on the outer edges of the voxels, half a voxel from their centres; equal corners are a point.
    score: 0 to 1.
    """

    label: str
    score: float
    corners: np.ndarray

    @classmethod
    def on_grid(cls, label: str, score: float, box: Any, volume: Volume) -> Finding:
        """box: [2, 3], lower and upper corner in voxels (z, y, x) of `volume`; voxel i reaches from i − ½ to i + ½."""
        index = np.asarray(box, dtype=float)[:, ::-1]
        affine = volume.affine
        return cls(label, float(score), index @ affine[:3, :3].T + affine[:3, 3])

    def box(self, volume: Volume) -> np.ndarray:
        """[2, 3], lower and upper corner in voxels (z, y, x) of `volume`, as `on_grid` takes them."""
        inverse = np.linalg.inv(volume.affine)
        index = (np.asarray(self.corners, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3])[:, ::-1]
        return np.stack([index.min(axis=0), index.max(axis=0)])

    def as_dict(self, volume: Volume) -> dict[str, Any]:
        """As `Prediction.findings` keeps it: mm in LPS, size along the image's (x, y, z) axes, slices counted from 0
        in the order of `volume`."""
        box = self.box(volume)
        size = (box[1] - box[0]) * np.asarray(volume.spacing)
        first, last = np.clip(np.floor(box[:, 0] + [0.5, 0.5 - 1e-6]), 0, volume.shape[0] - 1).astype(int).tolist()
        return {
            "label": self.label,
            "score": round(self.score, 4),
            "corners": np.round(self.corners, 3).tolist(),
            "centre": np.round(np.mean(self.corners, axis=0), 3).tolist(),
            "size_mm": np.round(size[::-1], 3).tolist(),
            "slices": [first, max(first, last)],
        }


@dataclass(frozen=True)
class Map:
    """A number for every voxel of the image. kind: one of `PredictionMap.Kind`; label: the class or structure it tells
    of, "" where it tells of all; volume: float32 on the grid of the image; quantity and unit (UCUM) say what the
    numbers are, such as "probability" in "1" or "entropy" in "bit"."""

    kind: str
    label: str
    volume: Volume
    quantity: str
    unit: str = "1"


@dataclass(frozen=True)
class Output:
    """What a model says about one image.

    scores: probability of each class or label, highest probability of each structure, or highest score of each label
    that is detected. label_map: uint8 [z, y, x] on the grid of the image, None where the model does not segment.
    masks: bool [label, z, y, x] instead of a label map where structures may overlap. volumes_ml: volume of each
    structure. values: {"name": {"value": 61.2, "unit": "a"}} of a regression. findings: what a detector found, the
    likeliest first. maps: for every voxel. uncertainty: {"method": …, "measure": …, "value": …} where it was asked for.
    """

    scores: dict[str, float]
    label_map: np.ndarray | None = None
    masks: np.ndarray | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    maps: Sequence[Map] = ()
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
