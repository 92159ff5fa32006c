"""Boxes cut out of volumes. The box's offset goes into the geometry, so the way back to the image is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from inference.errors import PreprocessingError
from inference.imaging import intensity
from studies.dicom.volume import Volume


def crop_foreground(volume: Volume, *, above: float, margin: float) -> Volume:
    """The box around all voxels brighter than `above`, widened by `margin` mm."""
    mask = volume.array > above
    if not mask.any():
        raise PreprocessingError(
            f"No voxel is brighter than {above:g}, so there is no foreground to crop to.",
            "Check that the series is the right one, or lower “above” of the step crop_foreground.",
        )
    return cut(volume, _around(mask, volume.spacing, margin))


def crop_body(volume: Volume, *, margin: float, closing: int) -> Volume:
    """The box around the body, widened by `margin` mm: the largest connected part brighter than Otsu's threshold."""
    mask = intensity.crop_mask(volume.array, closing=closing)
    if not mask.any():
        raise PreprocessingError("No body was found in the image.", "Check that the series is the right one.")
    return cut(volume, _around(mask, volume.spacing, margin))


def crop_centre(volume: Volume, *, size: Sequence[float]) -> Volume:
    """The central box of at most `size` (z, y, x) mm."""
    box = []
    for n, spacing, millimetres in zip(volume.shape, volume.spacing, size, strict=True):
        keep = min(n, max(1, round(millimetres / spacing)))
        start = (n - keep) // 2
        box.append(slice(start, start + keep))
    return cut(volume, box)


def crop(volume: Volume, *, start: Sequence[int], size: Sequence[int]) -> Volume:
    """The box of `size` (z, y, x) voxels from voxel `start`; a size of 0 goes to the end of the axis.

    Raises `PreprocessingError` where the box does not lie within the image.
    """
    box = [slice(s, s + n if n else have) for s, n, have in zip(start, size, volume.shape, strict=True)]
    if any(part.start >= have or part.stop > have for part, have in zip(box, volume.shape, strict=True)):
        ends = "×".join(str(n) for n in volume.shape)
        raise PreprocessingError(
            f"The box from voxel {list(start)} with {list(size)} voxels does not lie within the image of {ends} voxels "
            "(z, y, x).",
            "Lower “start” or “size” of the step crop, or resample before it so that all images have one spacing.",
        )
    return cut(volume, box)


def cut(volume: Volume, box: Sequence[slice]) -> Volume:
    start = np.array([part.start for part in box], dtype=float) * np.asarray(volume.spacing)
    origin = np.asarray(volume.origin) + np.asarray(volume.direction) @ start[::-1]
    return replace(
        volume,
        array=np.ascontiguousarray(volume.array[tuple(box)]),
        origin=tuple(float(v) for v in origin),  # type: ignore[arg-type]
    )


def place(part: Volume, whole: Volume) -> list[slice]:
    """Where a part that was cut out of `whole` lies in it."""
    offset = np.asarray(whole.direction).T @ (np.asarray(part.origin) - np.asarray(whole.origin))
    start = np.rint(offset[::-1] / np.asarray(whole.spacing)).astype(int)
    return [slice(int(first), int(first) + size) for first, size in zip(start, part.shape, strict=True)]


def _around(mask: np.ndarray, spacings: Sequence[float], margin: float) -> list[slice]:
    box = []
    for axis, (size, spacing) in enumerate(zip(mask.shape, spacings, strict=True)):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        wider = int(np.ceil(margin / spacing))
        box.append(slice(max(0, int(inside[0]) - wider), min(size, int(inside[-1]) + 1 + wider)))
    return box
