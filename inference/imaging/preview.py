"""What each preprocessing step does to an image: shape, values, time, and slices before and after. Pure arrays."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from inference.errors import PreprocessingError
from inference.imaging import cropping, grids, preprocessing
from inference.imaging.preprocessing import Step
from studies.dicom.volume import Volume

BINS = 64
WINDOW = (0.5, 99.5)  # percentiles between which a picture's grey runs
LARGEST_SIDE = 512  # pixels of a picture
BYTES_PER_VOXEL = 40  # at the step that needs most: several copies in float64


@dataclass(frozen=True)
class Stage:
    """The image after a step. shape: voxels (z, y, x); spacing: mm; kind: of the numbers, as numpy calls it."""

    name: str
    shape: list[int]
    spacing: list[float]
    kind: str
    low: float
    high: float
    mean: float
    seconds: float
    edges: list[float]
    counts: list[int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stages(
    volume: Volume, steps: Sequence[Step], tick: Callable[[int], None] = lambda number: None
) -> tuple[list[Stage], Volume, PreprocessingError | None]:
    """The stages from the stored image on, the last image, and what stopped the steps where one could not be done.

    tick: called with the number of each step before it is done.
    """
    preprocessing.check_numbers(volume)
    found = [_stage("stored image", volume, 0.0)]
    for number, step in enumerate(steps):
        tick(number)
        started = time.perf_counter()
        try:
            volume = preprocessing.apply(volume, step)
            preprocessing.check_numbers(volume)
        except PreprocessingError as error:
            words = f"Step {number + 1} ({step['name']}): {error.cause}"
            return found, volume, PreprocessingError(words, error.next_step)
        found.append(_stage(step["name"], volume, time.perf_counter() - started))
    return found, volume, None


def _stage(name: str, volume: Volume, seconds: float) -> Stage:
    array = volume.array
    low, high = float(array.min()), float(array.max())
    counts, edges = np.histogram(array, bins=BINS, range=(low, high if high > low else low + 1))
    return Stage(
        name=name,
        shape=[int(n) for n in volume.shape],
        spacing=[round(float(n), 4) for n in volume.spacing],
        kind=str(array.dtype),
        low=low,
        high=high,
        mean=float(array.mean(dtype=np.float64)),
        seconds=round(seconds, 4),
        edges=[float(edge) for edge in edges],
        counts=[int(count) for count in counts],
    )


def chosen_slices(depth: int, most: int) -> list[int]:
    """At most `most` slices, evenly over all of them."""
    return sorted({int(n) for n in np.linspace(0, depth - 1, min(depth, most)).round()})


def grey_range(array: np.ndarray) -> tuple[float, float]:
    """The values that a picture shows as black and white."""
    low, high = np.percentile(array, WINDOW)
    return float(low), float(high) if high > low else float(low) + 1


def picture(values: np.ndarray, between: tuple[float, float]) -> bytes:
    """A slice [y, x] as PNG, grey between two values; NaN is transparent."""
    low, high = between
    seen = np.isfinite(values)
    grey = np.clip((np.where(seen, values, low) - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8), "L")
    if not seen.all():
        image = Image.merge("LA", (image, Image.fromarray((seen * 255).astype(np.uint8), "L")))
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def on_slice(prepared: Volume, original: Volume, z: int) -> np.ndarray:
    """The prepared image on slice `z` of the original grid, as results are brought back; NaN beyond its ends."""
    target = cropping.cut(original, [slice(z, z + 1), slice(0, original.shape[1]), slice(0, original.shape[2])])
    return grids.resample_channels(prepared.array[None], prepared, target, outside=[np.nan])[0, 0]
