"""A detector on an image of any size, window by window, and what several windows say of one lesion made one.

A lesion that several windows see has a box from each; all but the most probable go where they overlap it (non-maximum
suppression). A window sees a lesion at its edge cut off, so boxes lose probability towards the edges within the image,
as far as another window sees the same place whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor, nn
from torch.nn.functional import pad

from inference.imaging.boxes import fused, iou, linked
from inference.networks import detector
from inference.networks.sampling import Sample, answering, samples
from inference.networks.sliding_window import device_of

SAME = 0.2  # intersection over union from which two boxes of different windows are one lesion
SAME_IN_PLANE = 0.4  # of boxes in neighbouring slices, for detectors in 2-D
LEAST = 0.05
# Boxes of an image that are kept: the most certain 40, and beyond them those that are certain enough, up to 200.
USUAL, MOST, CERTAIN = 40, 200, 0.25


@dataclass(frozen=True)
class Boxes:
    """boxes: float [n, 2, 3], lower and upper corner in voxels (z, y, x), voxel i from i - 0.5 to i + 0.5; scores [n]
    from high to low; numbers [n]: class from 0."""

    boxes: np.ndarray
    scores: np.ndarray
    numbers: np.ndarray


def detect(
    networks: Sequence[nn.Module],
    image: Tensor,
    settings: Mapping[str, Any],
    *,
    tick: Callable[[], None] | None = None,
) -> Boxes:
    """What the networks find in a prepared image [inputs, z, y, x]; of several answers to it (members of an ensemble,
    mirror images, shifts, see `sampling.samples`) the boxes are fused (`boxes.fused`).

    settings: the manifest's `inference`: `window` (z, y, x) voxels, z = 1 for networks in 2-D, which see slice by
    slice; `overlap` 0 to 1; `least`: the least score of a box that is kept; `mirror`, `shifts`, `dropout`. tick: called
    before every window.
    """
    found = []
    for sample in samples(networks, settings):
        z, y, x = sample.shift
        moved = pad(image[None], (x, 0, y, 0, z, 0), mode="replicate")[0] if any(sample.shift) else image
        with answering(sample) as network:
            seen = _once(network, torch.flip(moved, sample.mirror), settings, tick)
        found.append((_placed_back(seen.boxes, sample, moved.shape[1:], image.shape[1:]), seen.scores, seen.numbers))
    if len(found) == 1:
        return Boxes(*found[0])
    boxes, scores, numbers = fused(found, SAME)
    kept = scores >= settings.get("least", LEAST)
    return _best(boxes[kept], scores[kept], numbers[kept])


def _placed_back(boxes: np.ndarray, sample: Sample, moved: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Boxes found in a mirrored and shifted image where they lie in the image itself, of `shape`."""
    boxes = boxes.copy()
    for axis in sample.mirror:
        boxes[:, :, axis] = moved[axis] - 1 - boxes[:, ::-1, axis]
    return np.clip(boxes - np.array(sample.shift), -0.5, np.array(shape) - 0.5)


def _once(network: nn.Module, image: Tensor, settings: Mapping[str, Any], tick: Callable[[], None] | None) -> Boxes:
    """What one network finds, looking once."""
    window = [int(n) for n in settings["window"]]
    flat = window[0] == 1
    shape = list(image.shape[1:])
    size = [max(want, have) for want, have in zip(window, shape, strict=True)]
    before = [(want - have) // 2 for want, have in zip(size, shape, strict=True)]
    sides = [(b, want - have - b) for b, want, have in zip(before, size, shape, strict=True)]
    whole = pad(image[None], [n for side in reversed(sides) for n in side], mode="replicate")
    overlap = float(settings.get("overlap", 0.5))
    steps = [max(1, int(n * (1 - overlap))) for n in window]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for place in dense_patch_slices(size, window, steps):
            if tick is not None:
                tick()
            part = whole[(slice(None), slice(None), *place)].to(device_of(network))
            answers = network(part[:, :, 0] if flat else part)
            made = detector.decode(answers, window[1:] if flat else window, threshold=settings.get("least", LEAST))[0]
            boxes = _in_three(made.boxes.float().cpu().numpy(), flat)
            start = np.array([side.start for side in place])
            scores = made.scores.float().cpu().numpy() * _seen_whole(boxes, start, window, size)
            found.append((boxes + start - before - 0.5, scores, made.labels.cpu().numpy()))
    boxes, scores, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    inside = np.array(shape) - 0.5
    boxes = np.clip(boxes, -0.5, inside)
    # What lay in the padding alone has no size left.
    real = ((boxes[:, 1] - boxes[:, 0]) > 0).all(-1) & (scores >= settings.get("least", LEAST))
    kept = suppressed(boxes[real], scores[real], numbers[real], SAME)
    boxes, scores, numbers = boxes[real][kept], scores[real][kept], numbers[real][kept]
    return _over_slices(boxes, scores, numbers) if flat and shape[0] > 1 else _best(boxes, scores, numbers)


def suppressed(boxes: np.ndarray, scores: np.ndarray, numbers: np.ndarray, overlap: float) -> np.ndarray:
    """Places of the boxes that no more probable one of their class overlaps by more than `overlap`."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for place in order.tolist():
        mine = [other for other in kept if numbers[other] == numbers[place]]
        if not mine or iou(boxes[[place]], boxes[mine]).max() <= overlap:
            kept.append(place)
    return np.array(kept, dtype=int)


def _in_three(boxes: np.ndarray, flat: bool) -> np.ndarray:
    """[n, 2 · dimensions] as [n, 2, 3]; a box in a slice is one voxel thick."""
    if not flat:
        return boxes.reshape(-1, 2, 3).astype(np.float64)
    deep = np.zeros((len(boxes), 2, 3))
    deep[:, 1, 0] = 1
    deep[:, :, 1:] = boxes.reshape(-1, 2, 2)
    return deep


def _seen_whole(boxes: np.ndarray, start: np.ndarray, window: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """1 for boxes away from the edges of the window, less for those that an edge within the image may cut."""
    share = np.ones(len(boxes))
    for axis in range(3):
        length = window[axis]
        if start[axis] > 0:
            share *= np.where(boxes[:, 0, axis] < 1, 0.7, 1.0)
        if start[axis] + length < size[axis]:
            share *= np.where(boxes[:, 1, axis] > length - 1, 0.7, 1.0)
    return share


def _over_slices(boxes: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> Boxes:
    """Boxes of single slices as boxes with depth: the whole extent, and the highest score."""
    groups = linked(boxes, scores, numbers, SAME_IN_PLANE)
    joined = [np.stack([boxes[g][:, 0].min(axis=0), boxes[g][:, 1].max(axis=0)]) for g in groups]
    best = [float(scores[g].max()) for g in groups]
    of = [int(numbers[g[0]]) for g in groups]
    return _best(np.array(joined).reshape(-1, 2, 3), np.array(best), np.array(of, dtype=int))


def _best(boxes: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> Boxes:
    order = np.argsort(-scores, kind="stable")[: min(MOST, max(USUAL, int((scores >= CERTAIN).sum())))]
    return Boxes(boxes[order], scores[order], numbers[order])
