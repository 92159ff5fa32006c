"""The frames of a DICOM Segmentation on the grid of a volume: copied where they coincide, else by the nearest pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.dicom.volume import Volume


@dataclass(frozen=True)
class Plane:
    """A frame of a SEG: label numbers as stored (`segment` None) or the mask of one segment."""

    mask: np.ndarray
    segment: int | None
    position: np.ndarray
    axes: np.ndarray  # 3×2: LPS mm for one step along a row and along a column
    thickness: float | None


def placed(planes: list[Plane], like: Volume, numbers: dict[int, int]) -> np.ndarray:
    """uint8 [z, y, x] in the grid of `like`: each voxel's number by its segment, else 0; the higher number wins."""
    target = np.zeros(like.array.shape, dtype=np.uint8)
    axes = (np.asarray(like.direction) * np.asarray(like.spacing)[::-1]).astype(np.float64)
    to_index = np.linalg.inv(axes)
    groups: dict[tuple[int, ...], list[Plane]] = {}
    for plane in planes:
        groups.setdefault(tuple(np.round(plane.axes.ravel(), 5)), []).append(plane)
    for group in groups.values():
        if not _place_same_grid(target, group, like, to_index, numbers):
            _place_nearest(target, group, like, axes, numbers)
    return target


def _assign(target: np.ndarray, values: np.ndarray, segment: int | None, numbers: dict[int, int]) -> None:
    """Write a plane's labels into a view of the target; the higher number wins."""
    if segment is not None:
        number = numbers.get(segment, 0)
        np.maximum(target, np.where(values != 0, np.uint8(number), np.uint8(0)), out=target)
        return
    lookup = np.zeros(int(values.max()) + 1, dtype=np.uint8)
    for stored, number in numbers.items():
        if stored < len(lookup):
            lookup[stored] = number
    np.maximum(target, lookup[values], out=target)


def _place_same_grid(
    target: np.ndarray, planes: list[Plane], like: Volume, to_index: np.ndarray, numbers: dict[int, int]
) -> bool:
    """Copy planes that lie exactly on slices of the target; False (and nothing written) where one does not."""
    step = to_index @ planes[0].axes
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    rows, columns = target.shape[1:]
    if planes[0].mask.shape != (rows, columns) or np.abs(step - expected).max() * max(rows, columns) > 0.25:
        return False
    slices = []
    for plane in planes:
        index = to_index @ (plane.position - np.asarray(like.origin))
        z = round(float(index[2]))
        if np.abs(index[:2]).max() > 0.25 or abs(index[2] - z) > 0.25:
            return False
        slices.append(z)
    for plane, z in zip(planes, slices, strict=True):
        if 0 <= z < target.shape[0]:
            _assign(target[z], plane.mask, plane.segment, numbers)
    return True


def _place_nearest(
    target: np.ndarray, planes: list[Plane], like: Volume, axes: np.ndarray, numbers: dict[int, int]
) -> None:
    """Take every voxel of the target from the nearest pixel of the planes, which share one orientation."""
    normal = np.cross(planes[0].axes[:, 0], planes[0].axes[:, 1])
    normal /= np.linalg.norm(normal)
    by_segment: dict[int | None, list[Plane]] = {}
    for plane in planes:
        by_segment.setdefault(plane.segment, []).append(plane)
    depths = np.unique(np.round([float(plane.position @ normal) for plane in planes], 3))
    gap = planes[0].thickness or (float(np.diff(depths).min()) if len(depths) > 1 else like.spacing[0])
    inverse = np.linalg.inv(np.column_stack([planes[0].axes, normal]))
    depth, rows, columns = target.shape
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    for group in by_segment.values():
        heights = np.array([float(plane.position @ normal) for plane in group])
        order = np.argsort(heights)
        heights = heights[order]
        stack = np.stack([group[index].mask for index in order])
        # In-plane origins may differ from plane to plane by rounding only: the first one serves all.
        start = group[order[0]].position
        for z in range(depth):
            points = np.asarray(like.origin)[:, None] + axes @ np.stack([x.ravel(), y.ravel(), np.full(x.size, z)])
            column, row, height = inverse @ (points - start[:, None])
            height += heights[0]
            nearest = np.clip(np.searchsorted(heights, height), 1, len(heights) - 1) if len(heights) > 1 else None
            if nearest is None:
                nearest = np.zeros(x.size, dtype=np.int64)
            else:
                nearest = nearest - (height - heights[nearest - 1] <= heights[nearest] - height)
            c, r = np.rint(column).astype(np.int64), np.rint(row).astype(np.int64)
            inside = (
                (c >= 0)
                & (c < stack.shape[2])
                & (r >= 0)
                & (r < stack.shape[1])
                & (np.abs(height - heights[nearest]) <= gap / 2 + 1e-6)
            )
            values = np.zeros(x.size, dtype=stack.dtype)
            values[inside] = stack[nearest[inside], r[inside], c[inside]]
            if values.any():
                _assign(target[z], values.reshape(rows, columns), group[0].segment, numbers)
