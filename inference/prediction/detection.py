"""What a detector says about an image: boxes in the patient, on the grid of the original image by geometry alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.networks.detection import detect
from inference.prediction.output import Finding, Output
from studies.dicom.volume import Volume

if TYPE_CHECKING:
    from torch import nn


def run(
    networks: Sequence[nn.Module],
    prepared: Sequence[Volume],
    volume: Volume,
    manifest: dict[str, Any],
    *,
    tick: Callable[[], None] | None = None,
) -> Output:
    """prepared: the inputs after preprocessing; volume: the original image, within which all boxes lie."""
    import torch

    names = [label["name"] for label in manifest["labels"]]
    image = torch.from_numpy(np.stack([one.array for one in prepared]))
    found = detect(networks, image, manifest["inference"], tick=tick)
    findings = [
        finding
        for box, score, number in zip(found.boxes, found.scores.tolist(), found.numbers.tolist(), strict=True)
        if (finding := on_original(names[number], score, box, prepared[0], volume)) is not None
    ]
    return Output(
        {name: max((found.score for found in findings if found.label == name), default=0.0) for name in names},
        findings=findings,
    )


def on_original(label: str, score: float, box: np.ndarray, prepared: Volume, volume: Volume) -> Finding | None:
    """A box in voxels (z, y, x) of `prepared` as finding within `volume`; None where it lies outside altogether."""
    there = Finding.on_grid(label, score, box, prepared).box(volume)
    there = np.clip(there, -0.5, np.asarray(volume.shape) - 0.5)
    if (there[1] - there[0] <= 0).any():
        return None
    return Finding.on_grid(label, score, there, volume)
