"""Volumes from one grid to another: orientation, spacing, size, and results back to the grid of the original image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from inference.errors import PreprocessingError
from studies.dicom.volume import Volume

AXES = {"L": (0, 1.0), "R": (0, -1.0), "P": (1, 1.0), "A": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}


def orient(volume: Volume, *, to: str) -> Volume:
    """Permute and flip the index axes so that x, y, z run nearest to the three directions of `to`, e.g. "LPS".

    No interpolation: an oblique volume stays oblique.
    """
    wanted = np.zeros((3, 3))
    for column, letter in enumerate(to):
        axis, sign = AXES[letter]
        wanted[axis, column] = sign
    cosines = wanted.T @ np.asarray(volume.direction, dtype=float)  # [wanted axis, index axis]
    _, source = linear_sum_assignment(-np.abs(cosines))
    array = volume.array.transpose([2 - source[2 - position] for position in range(3)])
    spacing_xyz = np.asarray(volume.spacing, dtype=float)[::-1]
    direction = np.empty((3, 3))
    origin = np.asarray(volume.origin, dtype=float)
    for column in range(3):
        index_axis = source[column]
        vector = np.asarray(volume.direction, dtype=float)[:, index_axis]
        if cosines[column, index_axis] < 0:
            position = 2 - column
            array = np.flip(array, axis=position)
            origin = origin + vector * spacing_xyz[index_axis] * (array.shape[position] - 1)
            vector = -vector
        direction[:, column] = vector
    return replace(
        volume,
        array=np.ascontiguousarray(array),
        spacing=tuple(float(spacing_xyz[source[2 - position]]) for position in range(3)),  # type: ignore[arg-type]
        origin=tuple(map(float, origin)),  # type: ignore[arg-type]
        direction=direction,
    )


def resample(volume: Volume, *, spacing: Sequence[float | None]) -> Volume:
    """Linear interpolation to `spacing` (z, y, x) mm over the same field of view; None keeps an axis as it is.

    Averages over the coarser voxel where an axis is made coarser, so that detail does not alias.
    """
    old = np.asarray(volume.spacing, dtype=float)
    new = np.array([have if want is None else want for have, want in zip(old, spacing, strict=True)], dtype=float)
    shape = tuple(max(1, round(n * have / want)) for n, have, want in zip(volume.shape, old, new, strict=True))
    if shape == volume.shape and np.allclose(old, new, rtol=1e-4):
        return volume
    array = volume.array.astype(np.float32)
    starts = []
    for axis, (n, m) in enumerate(zip(volume.shape, shape, strict=True)):
        ratio = new[axis] / old[axis]
        start = (n - 1) / 2 - (m - 1) / 2 * ratio  # both fields of view have the same centre
        starts.append(start)
        array = _interpolate(array, axis, start + np.arange(m) * ratio, width=ratio)
    offset = np.asarray(volume.direction) @ (np.asarray(starts) * old)[::-1]
    origin = tuple(float(v) for v in np.asarray(volume.origin) + offset)
    return replace(volume, array=array, spacing=tuple(map(float, new)), origin=origin)  # type: ignore[arg-type]


def resize(volume: Volume, *, to: Sequence[int]) -> Volume:
    """Linear interpolation to `to` (z, y, x) voxels over the same field of view; 0 keeps an axis."""
    wanted = [n or have for n, have in zip(to, volume.shape, strict=True)]
    spacing = [have * n / m for have, n, m in zip(volume.spacing, volume.shape, wanted, strict=True)]
    return resample(volume, spacing=spacing)


def to_size(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """float32 [z, y, x] of a fixed size: cut, or its edges repeated, about the centre."""
    for axis, want in enumerate(size):
        have = array.shape[axis]
        if have > want:
            array = array.take(range((have - want) // 2, (have - want) // 2 + want), axis=axis)
        elif have < want:
            before = (want - have) // 2
            array = np.pad(array, [(before, want - have - before) if a == axis else (0, 0) for a in range(3)], "edge")
    return np.ascontiguousarray(array, dtype=np.float32)


def fitted(volume: Volume, size: Sequence[int]) -> Volume:
    """`to_size` with the place in the patient: the voxels that a network of fixed input size sees."""
    offsets = [
        (have - want) // 2 if have > want else -((want - have) // 2)
        for have, want in zip(volume.shape, size, strict=True)
    ]
    moved = np.asarray(volume.direction) @ (np.asarray(offsets, dtype=float) * np.asarray(volume.spacing))[::-1]
    origin = tuple(float(v) for v in np.asarray(volume.origin) + moved)
    return Volume(to_size(volume.array, size), volume.spacing, origin, volume.direction)  # type: ignore[arg-type]


def resample_channels(channels: np.ndarray, source: Volume, target: Volume, *, outside: Sequence[float]) -> np.ndarray:
    """Take channels from the grid of `source` to the grid of `target`.

    channels: float array [c, z, y, x] on the grid of `source`; result [c, z, y, x] on the grid of `target`, linear
    interpolation. Voxels whose centre lies outside the source's field of view get `outside`, one value per channel.
    The grids may differ by permutation, flips, spacing and offset, which is all that the steps do.
    Raises `PreprocessingError` where the grids are rotated against each other.
    """
    order, starts, steps = _axis_map(source, target)
    array = np.asarray(channels, dtype=np.float32)
    # order[a] is the axis of the source that runs along axis a of the target.
    array = array.transpose([0] + [1 + axis for axis in order])
    inside = []
    for axis in range(3):
        positions = starts[axis] + np.arange(target.shape[axis]) * steps[axis]
        n = array.shape[1 + axis]
        inside.append((positions > -0.5 - 1e-4) & (positions < n - 0.5 + 1e-4))
        array = _interpolate(array, 1 + axis, positions)
    visible = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
    if not visible.all():
        array = np.where(visible[None], array, np.asarray(outside, dtype=np.float32)[:, None, None, None])
    return np.ascontiguousarray(array)


def resample_labels(labels: Volume, target: Volume) -> np.ndarray:
    """A label map on the grid of `target`: for each voxel the number with the largest share of the interpolation.

    Exact where the voxels coincide; voxels outside are 0.
    """
    numbers = [0, *[int(n) for n in np.unique(labels.array) if n != 0]]
    if len(numbers) == 1:
        return np.zeros(target.shape, dtype=np.uint8)
    best = np.full(target.shape, -1.0, dtype=np.float32)
    result = np.zeros(target.shape, dtype=np.uint8)
    for number in numbers:
        share = resample_channels(
            (labels.array == number)[None].astype(np.float32), labels, target, outside=[1.0 if number == 0 else 0.0]
        )[0]
        better = share > best
        best[better], result[better] = share[better], number
    return result


def _axis_map(source: Volume, target: Volume) -> tuple[list[int], np.ndarray, np.ndarray]:
    """For each target axis (z, y, x): the source axis along it, and start and step in source voxels."""
    matrix = np.linalg.inv(source.affine) @ target.affine  # target (x, y, z) index to source (x, y, z) index
    scale = matrix[:3, :3][::-1, ::-1]  # [source axis, target axis] in z, y, x order
    order = np.abs(scale).argmax(axis=0)
    leading = np.abs(scale)[order, range(3)]
    rest = np.abs(scale).sum(axis=0) - leading
    if sorted(order) != [0, 1, 2] or (rest * max(target.shape) > 0.05).any():
        raise PreprocessingError(
            "The two grids are rotated against each other.", "Use images and labels of the same acquisition."
        )
    steps = scale[order, range(3)]
    starts = matrix[:3, 3][::-1][order]
    return [int(axis) for axis in order], starts, steps


def _interpolate(array: np.ndarray, axis: int, positions: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Values at fractional `positions` along one axis, edges repeated; a tent of half-width max(1, width)."""
    n = array.shape[axis]
    nearest = np.round(positions)
    if width <= 1 and np.abs(positions - nearest).max() < 1e-3:
        return array.take(np.clip(nearest.astype(int), 0, n - 1), axis=axis)
    if width <= 1:
        clipped = np.clip(positions, 0, n - 1)
        low = np.floor(clipped).astype(int)
        high = np.minimum(low + 1, n - 1)
        share = (clipped - low).astype(np.float32)
        shape = [1] * array.ndim
        shape[axis] = len(positions)
        share = share.reshape(shape)
        return array.take(low, axis=axis) * (1 - share) + array.take(high, axis=axis) * share
    reach = int(np.ceil(width))
    total = np.zeros(1)
    result: Any = 0.0
    base = np.floor(positions).astype(int)
    shape = [1] * array.ndim
    shape[axis] = len(positions)
    for shift in range(-reach, reach + 1):
        index = base + shift
        weight = np.clip(1 - np.abs(index - positions) / width, 0, None).astype(np.float32)
        total = total + weight
        result = result + array.take(np.clip(index, 0, n - 1), axis=axis) * weight.reshape(shape)
    return (result / total.reshape(shape)).astype(np.float32)
