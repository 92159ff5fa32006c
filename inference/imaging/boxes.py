"""Boxes around lesions: out of label maps, into label maps for training, and overlapping ones made one.

A box is [2, 3], its lower and upper corner in voxels (z, y, x), where voxel i reaches from i - 0.5 to i + 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects, generate_binary_structure, label

MOST_IN_MAP = 32_767


def of_mask(mask: np.ndarray) -> np.ndarray:
    """[n, 2, 3]: a box around each part of a boolean mask [z, y, x]; voxels that touch at a corner belong together."""
    parts, _ = label(mask, structure=generate_binary_structure(mask.ndim, mask.ndim))
    return _extents(find_objects(parts))


def of_numbers(label_map: np.ndarray) -> dict[int, np.ndarray]:
    """Number → the box around all its voxels, for every number of a label map [z, y, x] but 0."""
    found = find_objects(label_map.astype(np.int32))
    return {number: _extents([place])[0] for number, place in enumerate(found, start=1) if place is not None}


def _extents(places: Sequence[tuple[slice, ...]]) -> np.ndarray:
    edges = [[[side.start - 0.5 for side in place], [side.stop - 0.5 for side in place]] for place in places]
    return np.array(edges, dtype=np.float64).reshape(-1, 2, 3)


def paint(boxes: Sequence[np.ndarray], numbers: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """int16 [z, y, x] with the number of each box in the ellipsoid that the box holds; small ones on top.

    An ellipsoid, because turning it leaves a box around it that still fits; and the lines through its middle, so that
    the box around what was painted is the box. Raises `ValueError` for numbers outside 1 to 32767.
    """
    if any(not 1 <= number <= MOST_IN_MAP for number in numbers):
        raise ValueError(f"numbers from 1 to {MOST_IN_MAP} alone")
    painted = np.zeros(tuple(shape), dtype=np.int16)
    order = sorted(range(len(boxes)), key=lambda place: -float(np.prod(boxes[place][1] - boxes[place][0])))
    for place in order:
        low = np.clip(np.floor(boxes[place][0] + 0.5).astype(int), 0, np.array(shape) - 1)
        high = np.clip(np.ceil(boxes[place][1] - 0.5).astype(int) + 1, low + 1, shape)
        axes = [np.arange(a, b, dtype=float) for a, b in zip(low, high, strict=True)]
        middle, half = (low + high - 1) / 2, np.maximum((high - low) / 2, 0.5)
        steps = np.meshgrid(*[(axis - m) / h for axis, m, h in zip(axes, middle, half, strict=True)], indexing="ij")
        inside = sum(step**2 for step in steps) <= 1
        near = [np.abs(axis - m) <= 0.5 for axis, m in zip(axes, middle, strict=True)]
        for axis in range(3):
            line = [near[other] if other != axis else np.ones(len(axes[axis]), bool) for other in range(3)]
            inside |= line[0][:, None, None] & line[1][None, :, None] & line[2][None, None, :]
        part = painted[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        part[inside] = numbers[place]
    return painted


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union [n, m] of boxes [n, 2, 3] and [m, 2, 3]; 0 where both are empty."""
    near = np.maximum(first[:, None, 0], second[None, :, 0])
    far = np.minimum(first[:, None, 1], second[None, :, 1])
    shared = (far - near).clip(min=0).prod(-1)
    union = _sizes(first)[:, None] + _sizes(second)[None] - shared
    found: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def _sizes(boxes: np.ndarray) -> np.ndarray:
    sizes: np.ndarray = (boxes[:, 1] - boxes[:, 0]).clip(min=0).prod(-1)
    return sizes


def fused(
    members: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], overlap: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted boxes fusion (Solovyev et al., Image Vis Comput 2021;107:104117, arXiv:1910.13302): what several
    detectors, or one asked several times, say of one image, made one.

    members: of each its boxes [n, 2, 3], scores [n] and classes [n]. From the most probable box on, each joins the
    fused box of its class that it overlaps most, where intersection over union is more than `overlap`, or begins
    another. A fused box has the mean of the corners, weighted by score, and the mean of the scores times the share of
    the members that saw it. Unlike there, two boxes of one member never join: it has told them apart itself.

    Returns boxes [m, 2, 3], scores [m] from high to low, classes [m]. The order of the members does not matter.
    """
    boxes, scores, numbers = (np.concatenate(parts) for parts in zip(*members, strict=True))
    of = np.repeat(np.arange(len(members)), [len(found) for found, _, _ in members])
    total, count = len(boxes), 0
    group_of = np.full(total, -1)
    made, kinds, seen = np.zeros((total, 2, 3)), np.zeros(total, dtype=int), np.zeros((total, len(members)), dtype=bool)
    # Ties are decided by class and place, not by the order of the members.
    for place in np.lexsort([*boxes.reshape(-1, 6).T[::-1], numbers, -scores]).tolist():
        free = (kinds[:count] == numbers[place]) & ~seen[:count, of[place]]
        shared = iou(boxes[[place]], made[:count])[0] * free
        group = int(shared.argmax()) if count else -1
        if group < 0 or shared[group] <= overlap:
            group, count = count, count + 1
            kinds[group] = numbers[place]
        group_of[place], seen[group, of[place]] = group, True
        mine = group_of == group
        made[group] = np.average(boxes[mine], axis=0, weights=np.maximum(scores[mine], 1e-9))
    certain = np.bincount(group_of, weights=scores, minlength=count)[:count] / len(members)
    order = np.argsort(-certain, kind="stable")
    return made[:count][order], certain[order], kinds[:count][order]


def linked(boxes: np.ndarray, scores: np.ndarray, numbers: np.ndarray, overlap: float) -> list[list[int]]:
    """Groups of boxes of one number that follow each other from slice to slice and overlap in the plane by `overlap`
    (intersection over union) or more; the most probable box first."""
    flat = boxes.copy()
    flat[:, :, 0] = [0, 1]
    same = (iou(flat, flat) >= overlap) & (numbers[:, None] == numbers[None])
    middle = boxes[:, :, 0].mean(axis=1)
    follows = np.abs(middle[:, None] - middle[None]) <= 1.5
    left, groups = set(range(len(boxes))), []
    for start in np.argsort(-scores, kind="stable").tolist():
        if start not in left:
            continue
        group, waiting = [], [start]
        left.discard(start)
        while waiting:
            place = waiting.pop()
            group.append(place)
            for other in np.flatnonzero(same[place] & follows[place]).tolist():
                if other in left:
                    left.discard(other)
                    waiting.append(other)
        groups.append(group)
    return groups
