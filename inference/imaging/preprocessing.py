"""The one preprocessing path: a list of steps that training, inference and the bundle's manifest share.

A step is a dictionary with a `name` and its settings, for example `{"name": "resample", "spacing": [1, 1, 1]}`. Every
step turns a `Volume` into a `Volume` that knows its own place in the patient, so no step needs an inverse of its own:
`grids.resample_channels` takes a result from the prepared grid to the original one by geometry alone. That is exact
(no interpolation) wherever the voxels coincide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from inference.errors import PreprocessingError
from inference.imaging import cropping, grids, intensity
from inference.imaging.grids import AXES
from studies.dicom.volume import Volume

Step = dict[str, Any]


CROPS = ("crop_foreground", "crop_body")  # what they keep depends on the values, not on the grid alone


def scale(volume: Volume, *, factor: float, offset: float) -> Volume:
    """factor · value + offset, for networks that learned on another scale."""
    return volume.like(volume.array.astype(np.float32) * np.float32(factor) + np.float32(offset))


def window(volume: Volume, *, lower: float, upper: float) -> Volume:
    """Clip to fixed values, for calibrated modalities (HU, SUV). Whole numbers stay whole where the limits are."""
    if volume.array.dtype.kind in "iu" and float(lower).is_integer() and float(upper).is_integer():
        limits = np.iinfo(volume.array.dtype)
        low, high = (int(min(max(n, limits.min), limits.max)) for n in (lower, upper))
        return volume.like(np.clip(volume.array, low, high))
    return volume.like(np.clip(volume.array.astype(np.float32), lower, upper))


def clip_percentile(volume: Volume, *, lower: float, upper: float) -> Volume:
    """Clip to percentiles of the volume, for modalities without a scale of their own (MR, ultrasound)."""
    array = volume.array.astype(np.float32)
    low, high = np.percentile(array, [lower, upper])
    return volume.like(np.clip(array, np.float32(low), np.float32(high)))


def rescale(volume: Volume, *, lower: float, upper: float, to_lower: float, to_upper: float) -> Volume:
    """The straight line that takes `lower` to `to_lower` and `upper` to `to_upper`; nothing is clipped."""
    slope = (to_upper - to_lower) / (upper - lower)
    return volume.like((volume.array.astype(np.float32) - np.float32(lower)) * np.float32(slope) + np.float32(to_lower))


def normalise(volume: Volume, *, method: str, region: str, zeros: str = "change") -> Volume:
    """`zscore`: mean 0 and standard deviation 1; `range`: minimum 0 and maximum 1; over all or the nonzero voxels.

    zeros: `change` like every voxel, or `keep`.
    """
    array = volume.array.astype(np.float32)
    values = _values(array, region)
    if method == "zscore":
        centre, scale = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    else:
        centre, scale = float(values.min()), float(values.max()) - float(values.min())
    made = (array - np.float32(centre)) / np.float32(scale)
    return volume.like(np.where(array == 0, np.float32(0), made) if zeros == "keep" else made)


def percentile(volume: Volume, *, lower: float, upper: float, region: str, clip: str) -> Volume:
    """The straight line that takes two percentiles of the image, over all or the nonzero voxels, to 0 and 1.

    clip: `yes` to keep nothing beyond 0 and 1. A gain and an offset of the scanner change nothing in the result.
    """
    array = volume.array.astype(np.float32)
    low, high = np.percentile(_values(array, region), [lower, upper])
    if low == high:
        raise _flat()
    made = (array - np.float32(low)) / np.float32(high - low)
    return volume.like(np.clip(made, 0, 1) if clip == "yes" else made)


def _values(array: np.ndarray, region: str) -> np.ndarray:
    """Those that a normalisation looks at. Raises `PreprocessingError` where they are all the same."""
    values = array[array != 0] if region == "nonzero" else array
    if values.size == 0 or float(values.max()) == float(values.min()):
        raise _flat()
    return values


def _flat() -> PreprocessingError:
    return PreprocessingError(
        "All voxels of the image have the same value, so it cannot be normalised.",
        "Check the series: it may be empty or a screen capture.",
    )


@dataclass(frozen=True)
class Setting:
    kind: str  # number, percent, choice, orientation, spacing, size, voxels, count, scale
    default: Any = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    apply: Callable[..., Volume]
    settings: dict[str, Setting]
    modalities: tuple[str, ...] = ()  # empty: every modality
    summary: str = ""
    also: Callable[[Step], str | None] = field(default=lambda step: None)


def _ordered(step: Step) -> str | None:
    return None if step["lower"] < step["upper"] else "“lower” must be smaller than “upper”"


OPERATORS: dict[str, Operator] = {
    "orient": Operator(grids.orient, {"to": Setting("orientation", "LPS")}, summary="Turn to a common orientation"),
    "resample": Operator(grids.resample, {"spacing": Setting("spacing")}, summary="Resample to a spacing in mm"),
    "resize": Operator(grids.resize, {"to": Setting("voxels")}, summary="Resize to a number of voxels"),
    "scale": Operator(
        scale, {"factor": Setting("number", 1.0), "offset": Setting("number", 0.0)}, summary="Multiply and add"
    ),
    "crop_foreground": Operator(
        cropping.crop_foreground,
        {"above": Setting("number", 0.0), "margin": Setting("number", 0.0)},
        summary="Crop to what is brighter than a value",
    ),
    "crop_body": Operator(
        cropping.crop_body,
        {"margin": Setting("number", 0.0), "closing": Setting("count", 0)},
        ("CT", "MR", "PT"),
        "Crop to the largest bright part",
    ),
    "crop_centre": Operator(cropping.crop_centre, {"size": Setting("size")}, summary="Crop to a central box in mm"),
    "crop": Operator(
        cropping.crop,
        {"start": Setting("voxels", [0, 0, 0]), "size": Setting("voxels")},
        summary="Crop to a box given in voxels",
        also=lambda step: None if any(step["start"]) or any(step["size"]) else "it would cut nothing away",
    ),
    "suv": Operator(intensity.suv, {}, ("PT",), "Turn activity into SUV by body weight (g/ml)"),
    "window": Operator(
        window, {"lower": Setting("number"), "upper": Setting("number")}, ("CT", "PT"), "Clip to fixed values", _ordered
    ),
    "threshold": Operator(
        intensity.threshold,
        {"lower": Setting("number"), "upper": Setting("number"), "outside": Setting("number", 0.0)},
        summary="Replace values outside a range",
        also=_ordered,
    ),
    "nyul": Operator(
        intensity.nyul, {"scale": Setting("scale", [])}, ("MR",), "Match the histogram to a standard scale (Nyúl)"
    ),
    "n4": Operator(
        intensity.bias_field,
        {"shrink": Setting("count", 4), "iterations": Setting("count", 50)},
        ("MR",),
        "Divide out the shading of the coil (N4)",
    ),
    "whiten": Operator(
        intensity.whiten,
        {
            "method": Setting("choice", "zca", ("zca", "pca")),
            "patch": Setting("count", 4),
            "epsilon": Setting("number", 0.01),
        },
        summary="Remove the correlation of neighbours",
    ),
    "median": Operator(intensity.median, {"radius": Setting("count", 1)}, summary="Median of the neighbours"),
    "non_local_means": Operator(
        intensity.non_local_means,
        {"strength": Setting("number", 1.0), "patch": Setting("count", 1), "search": Setting("count", 5)},
        summary="Mean of similar surroundings",
    ),
    "total_variation": Operator(
        intensity.total_variation,
        {"weight": Setting("number"), "iterations": Setting("count", 100)},
        summary="Smooth but keep edges",
    ),
    "clip_percentile": Operator(
        clip_percentile,
        {"lower": Setting("percent", 0.5), "upper": Setting("percent", 99.5)},
        summary="Clip to percentiles of the image",
        also=_ordered,
    ),
    "percentile": Operator(
        percentile,
        {
            "lower": Setting("percent", 1.0),
            "upper": Setting("percent", 99.0),
            "region": Setting("choice", "all", ("all", "nonzero")),
            "clip": Setting("choice", "yes", ("yes", "no")),
        },
        summary="Bring two percentiles of the image to 0 and 1",
        also=_ordered,
    ),
    "rescale": Operator(
        rescale,
        {
            "lower": Setting("number"),
            "upper": Setting("number"),
            "to_lower": Setting("number", 0.0),
            "to_upper": Setting("number", 1.0),
        },
        summary="Bring a fixed range of values to another one",
        also=_ordered,
    ),
    "normalise": Operator(
        normalise,
        {
            "method": Setting("choice", "zscore", ("zscore", "range")),
            "region": Setting("choice", "all", ("all", "nonzero")),
            "zeros": Setting("choice", "change", ("change", "keep")),
        },
        summary="Bring values to a common scale",
    ),
}


def check(steps: Any, *, where: str = "preprocessing") -> list[Step]:
    """The steps with every default written out. Raises `PreprocessingError` that names the step and the setting."""
    if not isinstance(steps, list):
        raise PreprocessingError(f"{where} must be a list of steps.", "Write each step as a [[preprocessing]] table.")
    checked = []
    for number, step in enumerate(steps, start=1):
        place = f"{where}, step {number}"
        name = step.get("name") if isinstance(step, dict) else None
        if name not in OPERATORS:
            raise PreprocessingError(f"{place}: there is no step {name!r}.", f"Choose from: {', '.join(OPERATORS)}.")
        operator = OPERATORS[name]
        unknown = sorted(set(step) - {"name"} - set(operator.settings))
        if unknown:
            raise PreprocessingError(
                f"{place} ({name}): unknown setting {unknown[0]!r}.",
                f"It takes: {', '.join(operator.settings)}.",
            )
        made: Step = {"name": name}
        for key, setting in operator.settings.items():
            made[key] = _checked(step.get(key, setting.default), setting, f"{place} ({name}), {key}")
        problem = operator.also(made)
        if problem:
            raise PreprocessingError(f"{place} ({name}): {problem}.")
        checked.append(made)
    return checked


def prepare(volume: Volume, steps: Sequence[Step]) -> Volume:
    """Run checked steps one after the other; the result is float32 and keeps its place in the patient.

    Raises `PreprocessingError`, also where image or result hold values that are no numbers.
    """
    return prepare_all([volume], steps)[0]


def prepare_all(volumes: Sequence[Volume], steps: Sequence[Step]) -> list[Volume]:
    """Run checked steps on images of one grid, such as registered sequences; they stay on one grid.

    Every step sees each image by itself, but what is cropped is the same of all: crop_foreground keeps what is bright
    in any of them, crop_body goes by the first. Raises `PreprocessingError`.
    """
    made = list(volumes)
    for volume in made:
        check_numbers(volume)
    for step in steps:
        if step["name"] in CROPS and len(made) > 1:
            guide = made[0]
            if step["name"] == "crop_foreground":
                guide = guide.like(np.max([volume.array for volume in made], axis=0))
            kept = apply(guide, step)
            made = [cropping.cut(volume, cropping.place(kept, volume)) for volume in made]
        else:
            made = [apply(volume, step) for volume in made]
    made = [volume.like(np.ascontiguousarray(volume.array, dtype=np.float32)) for volume in made]
    if not all(np.isfinite(volume.array).all() for volume in made):
        raise PreprocessingError(
            "After preprocessing the image holds values that are no numbers (NaN or infinite).",
            "Look at the steps with the preview, and correct their settings.",
        )
    return made


def apply(volume: Volume, step: Step) -> Volume:
    """One checked step; whole numbers stay whole in steps that only move or choose voxels."""
    return OPERATORS[step["name"]].apply(volume, **{key: value for key, value in step.items() if key != "name"})


def check_numbers(volume: Volume) -> None:
    """Raise `PreprocessingError` where the image holds values that are no numbers."""
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise PreprocessingError(
            "The image holds values that are no numbers (NaN or infinite).",
            "Correct the image where it was made, and import it again.",
        )


def unfitted(steps: Sequence[Step]) -> int | None:
    """The place of the first step that still has to learn from the training images; None where none has to."""
    return next((place for place, step in enumerate(steps) if step["name"] == "nyul" and not step["scale"]), None)


def without_scales(steps: Sequence[Step]) -> list[Step]:
    """The steps with every scale that is learned from training images open again."""
    return [{**step, "scale": []} if step["name"] == "nyul" else step for step in steps]


def unsuited(steps: Sequence[Step], modalities: Collection[str]) -> list[str]:
    """A sentence for each step that is not meant for one of these modalities (as DICOM spells them)."""
    found = []
    for number, step in enumerate(steps, start=1):
        meant = OPERATORS[step["name"]].modalities
        others = sorted(set(modalities) - set(meant)) if meant else []
        if others:
            found.append(
                f"Preprocessing, step {number} ({step['name']}) is meant for {' and '.join(meant)}, and there are "
                f"images of modality {', '.join(others)}: compare before and after in the preview."
            )
    return found


def _checked(value: Any, setting: Setting, place: str) -> Any:
    def number(item: Any) -> bool:
        # JSON gives 1e36 back as a whole number of any length, of which NumPy knows nothing.
        return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= sys.float_info.max

    if value is None and setting.kind != "spacing":
        raise PreprocessingError(f"{place} is missing.")
    if setting.kind == "number" and number(value):
        return float(value)
    if setting.kind == "percent" and number(value) and 0 <= value <= 100:
        return float(value)
    if setting.kind == "choice" and value in setting.choices:
        return value
    if setting.kind == "orientation" and isinstance(value, str):
        axes = sorted(AXES[letter][0] if letter in AXES else -1 for letter in value)
        if axes == [0, 1, 2]:
            return value
    if setting.kind == "count" and _is_count(value):
        return value
    if setting.kind == "scale" and value == []:
        return []
    if setting.kind == "scale" and isinstance(value, list) and len(value) == len(intensity.LANDMARKS):
        rising = all(map(number, value)) and all(a < b for a, b in pairwise(value))
        if rising:
            return [float(item) for item in value]
    if setting.kind == "voxels" and isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)):
        return list(value)
    if setting.kind in ("spacing", "size") and isinstance(value, list) and len(value) == 3:
        keep = (None, 0) if setting.kind == "spacing" else ()
        if all(item in keep or (number(item) and item > 0) for item in value):
            return [None if item in keep else float(item) for item in value]
    wanted = {
        "number": "a number",
        "percent": "a number from 0 to 100",
        "choice": f"one of {', '.join(setting.choices)}",
        "orientation": "three letters, one of L/R, one of A/P, one of S/I, such as LPS",
        "spacing": "three positive numbers in mm (z, y, x), 0 where an axis keeps its own",
        "size": "three positive numbers in mm (z, y, x)",
        "count": "a whole number from 0",
        "scale": f"{len(intensity.LANDMARKS)} rising numbers, or left out: it is then learned from training images",
        "voxels": "three whole numbers of voxels (z, y, x), 0 where an axis keeps its own",
    }[setting.kind]
    raise PreprocessingError(f"{place} is {value!r}; it must be {wanted}.")


def _is_count(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 4096
