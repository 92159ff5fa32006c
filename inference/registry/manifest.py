"""What a bundle says about itself; `docs/bundle.md` describes every key. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from inference.errors import BundleError, NetworkError, PreprocessingError
from inference.imaging import preprocessing
from inference.networks import table
from inference.registry import programs, series_rule

FORMAT = "readroom-bundle/1"
# Task → how its network's numbers may be read; the first is meant where the manifest says nothing.
ACTIVATIONS = {
    "segmentation": ("softmax", "sigmoid"),
    "classification": ("softmax", "sigmoid"),
    "regression": ("linear",),
    "detection": ("sigmoid",),
}
AXES = ("zyx", "xyz")  # the order of the spatial axes of what the network sees
POOLINGS = ("centre", "mean", "max")
MEASURES = ("entropy", "mutual_information", "variance")
MAPS = ("probability",)
REGISTRATIONS = ("none", "rigid")
GRID_STEPS = ("orient", "resample", "resize", "crop", "crop_foreground", "crop_body", "crop_centre")
MOST_SLICES, MOST_PASSES, MOST_SHIFTS = 15, 100, 4
WHERE = "docs/bundle.md describes every key."

Manifest = dict[str, Any]


def check(manifest: Any) -> Manifest:
    """The manifest with every default written out. Raises `BundleError` that names the key."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _wrong(f"The manifest's format is not {FORMAT!r}.")
    for key, kind in (("task", str), ("inputs", list), ("labels", list), ("network", dict), ("inference", dict)):
        if not isinstance(manifest.get(key), kind) or not manifest[key]:
            raise _wrong(f"The manifest lacks {key!r}.")
    if manifest["task"] not in ACTIVATIONS:
        raise BundleError(f"The task {manifest['task']!r} is not supported.", f"Supported: {', '.join(ACTIVATIONS)}.")
    made = {**manifest}
    try:
        made["preprocessing"] = preprocessing.check(manifest.get("preprocessing", []))
        made["network"] = _network(manifest["network"])
        if manifest.get("members") is not None:
            made["members"] = _members(manifest["members"])
        made["inputs"] = _inputs(manifest["inputs"])
    except (PreprocessingError, NetworkError) as error:
        raise BundleError(f"The manifest is wrong. {error.cause}", error.next_step) from error
    made["labels"] = _labels(manifest)
    made["output"] = _output(manifest)
    made["inference"] = _inference(made)
    return made


def outputs(manifest: Manifest) -> int:
    """How many channels the network answers with: one for each label, and the background where labels exclude each
    other in a segmentation."""
    exclusive = manifest["task"] == "segmentation" and manifest["output"]["activation"] == "softmax"
    return len(manifest["labels"]) + exclusive


def channels(manifest: Manifest) -> int:
    """How many channels the network takes: one for each input, and in 2.5-D one for each neighbouring slice."""
    return len(manifest["inputs"]) * int(manifest["inference"].get("slices", 1))


def thresholds(manifest: Manifest) -> dict[str, float]:
    """Label → probability from which it counts as there."""
    output = manifest.get("output", {})
    own, common = output.get("thresholds", {}), output.get("threshold", 0.5)
    return {label["name"]: float(own.get(label["name"], common)) for label in manifest["labels"]}


def least_shown(manifest: Manifest) -> float | None:
    """The score from which findings of a detector are shown at first: the least of its thresholds; None of others."""
    return min(thresholds(manifest).values()) if manifest.get("task") == "detection" else None


def networks(manifest: Manifest) -> list[dict[str, Any]]:
    """The network, or those of the members of an ensemble."""
    members = manifest.get("members")
    return [member["network"] for member in members] if members else [manifest["network"]]


def _network(network: dict[str, Any]) -> dict[str, Any]:
    is_program = network.get("name") in programs.FILES
    parameters = {} if is_program else table.check(network.get("name"), network.get("parameters", {}))
    dimensions = network.get("dimensions", 3)
    if dimensions not in (2, 3):
        raise _wrong(f"network.dimensions is {dimensions!r}; it must be 2 or 3.")
    return {**network, "dimensions": dimensions, "parameters": parameters}


def _members(members: Any) -> list[dict[str, Any]]:
    if not isinstance(members, list) or len(members) < 2 or not all(isinstance(one, dict) for one in members):
        raise _wrong("members must be a list of two or more networks.")
    made = [{**member, "network": _network(member.get("network") or {})} for member in members]
    if len({member["network"]["dimensions"] for member in made}) > 1:
        raise _wrong("The members of an ensemble must all be in 2-D or all in 3-D.")
    return made


def _inputs(inputs: list[Any]) -> list[dict[str, Any]]:
    made = []
    for number, entry in enumerate(inputs, start=1):
        if not isinstance(entry, dict):
            raise _wrong(f"inputs, entry {number}, is no object.")
        name = str(entry.get("name") or ("image" if len(inputs) == 1 else f"image {number}"))
        place = f"inputs, “{name}”"
        modality = entry.get("modality") or []
        if not isinstance(modality, list) or not all(isinstance(one, str) for one in modality):
            raise _wrong(f'{place}: modality must be a list such as ["MR"].')
        found = {**entry, "name": name, "modality": modality}
        if entry.get("smallest") is not None and not _sizes(entry["smallest"]):
            raise _wrong(f"{place}: smallest must be three whole numbers of voxels (z, y, x).")
        if entry.get("anisotropy") is not None and not _number(entry["anisotropy"], 1, math.inf):
            raise _wrong(f"{place}: anisotropy must be a number from 1.")
        if entry.get("registration", "none") not in REGISTRATIONS:
            raise _wrong(f"{place}: registration must be one of {', '.join(REGISTRATIONS)}.")
        if entry.get("series") is not None:
            found["series"] = series_rule.check(entry["series"], place=place)
        if entry.get("preprocessing"):
            found["preprocessing"] = preprocessing.check(entry["preprocessing"], where=f"{place}, preprocessing")
            moving = [step["name"] for step in found["preprocessing"] if step["name"] in GRID_STEPS]
            if moving:
                raise _wrong(f"{place}: the step {moving[0]!r} changes the grid, which all inputs share.")
        made.append(found)
    names = [entry["name"].casefold() for entry in made]
    if len(set(names)) < len(names):
        raise _wrong("Each input needs a name of its own.")
    return made


def _labels(manifest: Manifest) -> list[dict[str, Any]]:
    labels = manifest["labels"]
    if not all(isinstance(label, dict) for label in labels):
        raise _wrong("Each label must be an object.")
    numbers = [label.get("number") for label in labels]
    if numbers != list(range(1, len(numbers) + 1)) or not all(label.get("name") for label in labels):
        raise _wrong("Labels must have the numbers 1, 2, … in order, and a name.")
    if manifest["task"] != "regression":
        return labels
    made = []
    for label in labels:
        mean, scale = label.get("mean", 0.0), label.get("scale", 1.0)
        if not _number(mean, -math.inf, math.inf) or not _number(scale, -math.inf, math.inf) or scale == 0:
            raise _wrong(f"{label['name']}: mean and scale of the target must be numbers, and scale not 0.")
        made.append({**label, "unit": str(label.get("unit") or "1"), "mean": float(mean), "scale": float(scale)})
    return made


def _output(manifest: Manifest) -> dict[str, Any]:
    output = manifest.get("output") or {}
    allowed = ACTIVATIONS[manifest["task"]]
    made = {"activation": allowed[0], "threshold": 0.5, **output}
    if made["activation"] not in allowed:
        raise _wrong(
            f"output.activation is {made['activation']!r}; for {manifest['task']} it must be {' or '.join(allowed)}."
        )
    if not _number(made["threshold"], 0, 1):
        raise _wrong("output.threshold must be a number from 0 to 1.")
    names = {label["name"] for label in manifest["labels"]}
    own = made.get("thresholds", {})
    if not isinstance(own, dict) or set(own) - names or not all(_number(value, 0, 1) for value in own.values()):
        raise _wrong("output.thresholds must give names of labels numbers from 0 to 1.")
    if set(made.get("maps", ())) - set(MAPS):
        raise _wrong(f"output.maps may name: {', '.join(MAPS)}.")
    return made


def _inference(manifest: Manifest) -> dict[str, Any]:
    """The settings of inference, checked against task and network."""
    settings = manifest["inference"]
    dimensions = manifest["network"]["dimensions"]
    checks: list[tuple[str, Any, Callable[[Any], bool], str]] = [
        ("window", None, _sizes, "three whole numbers of voxels (z, y, x)"),
        ("overlap", 0.5, lambda value: _number(value, 0, 0.95), "a number from 0 to 0.95"),
        ("mirror", [], lambda value: isinstance(value, list) and set(value) <= set("zyx"), "a list of z, y, x"),
        ("shifts", 0, lambda value: _whole(value, 0, MOST_SHIFTS), f"a whole number from 0 to {MOST_SHIFTS}"),
        ("dropout", 0, lambda value: _whole(value, 0, MOST_PASSES), f"a whole number from 0 to {MOST_PASSES}"),
        (
            "slices",
            1,
            lambda value: _whole(value, 1, MOST_SLICES) and value % 2 == 1,
            f"an odd number up to {MOST_SLICES}",
        ),
        ("least", 0.05, lambda value: _number(value, 0.001, 1), "a number from 0.001 to 1"),
        ("axes", "zyx", lambda value: value in AXES, "zyx or xyz"),
        ("pooling", "centre", lambda value: value in POOLINGS, f"one of {', '.join(POOLINGS)}"),
        ("uncertainty", "", lambda value: value in ("", *MEASURES), f"one of {', '.join(MEASURES)}"),
    ]
    for key, default, fine, wanted in checks:
        if not fine(settings.get(key, default)):
            raise _wrong(f"inference.{key} is {settings.get(key)!r}; it must be {wanted}.")
    if settings.get("slices", 1) > 1 and dimensions != 2:
        raise _wrong("inference.slices is for networks in 2-D: set network.dimensions to 2.")
    if settings.get("slices", 1) > 1 and "z" in settings.get("mirror", ()):
        raise _wrong("Neighbouring slices as channels cannot be mirrored along z: leave z out of inference.mirror.")
    if manifest["task"] == "segmentation" and dimensions == 2 and settings["window"][0] != 1:
        raise _wrong("A network in 2-D sees one slice: the first number of inference.window must be 1.")
    measure = settings.get("uncertainty", "")
    if measure and manifest["task"] == "regression" and measure != "variance":
        raise _wrong("The uncertainty of a regression is the variance of its answers: set inference.uncertainty so.")
    if measure and manifest["task"] == "detection":
        raise _wrong(
            "The uncertainty of boxes is not measured: leave inference.uncertainty out. The score of a box falls where "
            "members or mirror images do not see it."
        )
    single = not any((manifest.get("members"), settings.get("mirror"), settings.get("shifts"), settings.get("dropout")))
    if measure in ("mutual_information", "variance") and single:
        raise _wrong(
            f"{measure} needs several answers to the same image: members, inference.mirror, shifts or dropout."
        )
    return settings


def _wrong(cause: str) -> BundleError:
    return BundleError(cause, WHERE)


def _number(value: Any, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _sizes(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 3 and all(_whole(n, 1, 1 << 20) for n in value)
