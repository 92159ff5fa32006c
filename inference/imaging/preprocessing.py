"""The one preprocessing path: a list of steps that training, inference and the bundle's manifest share.

A step is a dictionary with a `name` and its settings, for example `{"name": "resample", "spacing": [1, 1, 1]}`. Every
step turns a `Volume` into a `Volume` that knows its own place in the patient, so no step needs an inverse of its own:
`resample_channels` takes a result from the prepared grid to the original one by geometry alone. That is exact
(no interpolation) wherever the voxels coincide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from inference.errors import PreprocessingError
from studies.dicom.volume import Volume

Step = dict[str, Any]
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
    spacing = tuple(float(spacing_xyz[source[2 - position]]) for position in range(3))
    return Volume(np.ascontiguousarray(array), spacing, tuple(map(float, origin)), direction)  # type: ignore[arg-type]


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
    return Volume(array, tuple(map(float, new)), origin, volume.direction)  # type: ignore[arg-type]


def resize(volume: Volume, *, to: Sequence[int]) -> Volume:
    """Linear interpolation to `to` (z, y, x) voxels over the same field of view; 0 keeps an axis."""
    wanted = [n or have for n, have in zip(to, volume.shape, strict=True)]
    spacing = [have * n / m for have, n, m in zip(volume.spacing, volume.shape, wanted, strict=True)]
    return resample(volume, spacing=spacing)


def scale(volume: Volume, *, factor: float, offset: float) -> Volume:
    """factor · value + offset, for networks that learned on another scale."""
    return volume.like(volume.array.astype(np.float32) * np.float32(factor) + np.float32(offset))


def crop_foreground(volume: Volume, *, above: float, margin: float) -> Volume:
    """The box around all voxels brighter than `above`, widened by `margin` mm; its offset stays in the geometry."""
    mask = volume.array > above
    if not mask.any():
        raise PreprocessingError(
            f"No voxel is brighter than {above:g}, so there is no foreground to crop to.",
            "Check that the series is the right one, or lower “above” of the step crop_foreground.",
        )
    box = []
    for axis, (size, spacing) in enumerate(zip(volume.shape, volume.spacing, strict=True)):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        wider = int(np.ceil(margin / spacing))
        box.append(slice(max(0, int(inside[0]) - wider), min(size, int(inside[-1]) + 1 + wider)))
    return _cut(volume, box)


def crop_centre(volume: Volume, *, size: Sequence[float]) -> Volume:
    """The central box of at most `size` (z, y, x) mm."""
    box = []
    for n, spacing, millimetres in zip(volume.shape, volume.spacing, size, strict=True):
        keep = min(n, max(1, round(millimetres / spacing)))
        start = (n - keep) // 2
        box.append(slice(start, start + keep))
    return _cut(volume, box)


def window(volume: Volume, *, lower: float, upper: float) -> Volume:
    """Clip to fixed values, for calibrated modalities (HU, SUV)."""
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
    values = array[array != 0] if region == "nonzero" else array
    if values.size == 0 or float(values.max()) == float(values.min()):
        raise PreprocessingError(
            "All voxels of the image have the same value, so it cannot be normalised.",
            "Check the series: it may be empty or a screen capture.",
        )
    if method == "zscore":
        centre, scale = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    else:
        centre, scale = float(values.min()), float(values.max()) - float(values.min())
    made = (array - np.float32(centre)) / np.float32(scale)
    return volume.like(np.where(array == 0, np.float32(0), made) if zeros == "keep" else made)


@dataclass(frozen=True)
class Setting:
    kind: str  # number, percent, choice, orientation, spacing, size, voxels
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
    "orient": Operator(orient, {"to": Setting("orientation", "LPS")}, summary="Turn to a common orientation"),
    "resample": Operator(resample, {"spacing": Setting("spacing")}, summary="Resample to a spacing in mm"),
    "resize": Operator(resize, {"to": Setting("voxels")}, summary="Resize to a number of voxels"),
    "scale": Operator(
        scale, {"factor": Setting("number", 1.0), "offset": Setting("number", 0.0)}, summary="Multiply and add"
    ),
    "crop_foreground": Operator(
        crop_foreground,
        {"above": Setting("number", 0.0), "margin": Setting("number", 0.0)},
        summary="Crop to what is brighter than a value",
    ),
    "crop_centre": Operator(crop_centre, {"size": Setting("size")}, summary="Crop to a central box in mm"),
    "window": Operator(
        window, {"lower": Setting("number"), "upper": Setting("number")}, ("CT", "PT"), "Clip to fixed values", _ordered
    ),
    "clip_percentile": Operator(
        clip_percentile,
        {"lower": Setting("percent", 0.5), "upper": Setting("percent", 99.5)},
        summary="Clip to percentiles of the image",
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

    Raises `PreprocessingError`, also where the image holds values that are no numbers.
    """
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise PreprocessingError(
            "The image holds values that are no numbers (NaN or infinite).",
            "Correct the image where it was made, and import it again.",
        )
    for step in steps:
        settings = {key: value for key, value in step.items() if key != "name"}
        volume = OPERATORS[step["name"]].apply(volume, **settings)
    return volume.like(np.ascontiguousarray(volume.array, dtype=np.float32))


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


def _cut(volume: Volume, box: Sequence[slice]) -> Volume:
    start = np.array([part.start for part in box], dtype=float) * np.asarray(volume.spacing)
    origin = np.asarray(volume.origin) + np.asarray(volume.direction) @ start[::-1]
    return Volume(
        np.ascontiguousarray(volume.array[tuple(box)]),
        volume.spacing,
        tuple(float(v) for v in origin),  # type: ignore[arg-type]
        volume.direction,
    )


def _checked(value: Any, setting: Setting, place: str) -> Any:
    def number(item: Any) -> bool:
        return isinstance(item, int | float) and not isinstance(item, bool) and bool(np.isfinite(item))

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
        "voxels": "three whole numbers of voxels (z, y, x), 0 where an axis keeps its own",
    }[setting.kind]
    raise PreprocessingError(f"{place} is {value!r}; it must be {wanted}.")


def _is_count(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 4096
