"""A MONAI bundle as one of ours: its network, preprocessing, labels and sliding window, read without running its code.

A MONAI configuration may hold Python expressions (`$…`). None is evaluated here: what running the model needs has to be
written out, as it is in the bundles of MONAI's model zoo. Format: MONAI bundle specification, docs.monai.io.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from inference.errors import BundleError
from inference.networks.table import Parameters

if TYPE_CHECKING:
    from torch import Tensor

Step = dict[str, Any]
METADATA = ("configs/metadata.json",)
INFERENCE = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))
# Transforms that bring data into memory or change their container only; padding is what the sliding window does itself.
WITHOUT_EFFECT = frozenset(
    {
        *("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "ToTensor", "CastToType"),
        *("DeleteItems", "SelectItems", "SpatialPad", "DivisiblePad", "Identity"),
    }
)
# Transforms that go by the values of the image, channel by channel or of all channels together.
BY_CHANNEL = frozenset({"NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRangePercentiles"})
CLASSES = ("labels", "classes", "classification", "probabilities")  # formats of the output of a classifier
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}


def is_bundle(folder: Path) -> bool:
    return any((folder / name).is_file() for name in METADATA)


def read(folder: Path) -> tuple[dict[str, Any], Mapping[str, Tensor] | Path]:
    """Manifest (without `format`) and weights of the bundle in `folder`. Raises `BundleError`."""
    metadata = _load(folder, METADATA)
    config = _Config(_load(folder, INFERENCE))
    formats = metadata.get("network_data_format", {})
    inputs = formats.get("inputs", {}).get("image", {})
    answer = formats.get("outputs", {}).get("pred", {})
    task = "classification" if str(answer.get("format", "")).lower() in CLASSES else "segmentation"
    output = _output(config)
    labels = _labels(answer, with_background=task == "segmentation" and output["activation"] == "softmax")
    channels = int(inputs.get("num_channels", 1))
    window, overlap = _window(config, inputs, task)
    network, weights = _network(folder, config, len(window))
    modality = MODALITIES.get(str(inputs.get("modality", "")).upper())
    manifest = {
        "task": task,
        "name": str(metadata.get("name", folder.name)),
        "description": str(metadata.get("description") or metadata.get("task") or ""),
        "inputs": [
            {"name": name, "modality": [modality] if modality else []} for name in _channel_names(inputs, channels)
        ],
        "preprocessing": _steps(config.value("preprocessing"), channels),
        "network": network,
        "labels": labels,
        "output": output,
        # MONAI's arrays run x, y, z; in 2-D the window is one slice deep.
        "inference": {
            "window": [1] * (3 - len(window)) + window[::-1],
            "overlap": overlap,
            "mirror": [],
            "shifts": 0,
            "axes": "xyz",
        },
        "training": {
            "imported_from": "MONAI bundle",
            "bundle_version": str(metadata.get("version", "")),
            "monai_version": str(metadata.get("monai_version", "")),
            "authors": str(metadata.get("authors", "")),
            "data": str(metadata.get("data_source", "")),
        },
        "card": {
            "intended_use": str(metadata.get("intended_use") or ""),
            "licence": str(metadata.get("copyright") or ""),
            "contacts": str(metadata.get("authors") or ""),
        },
    }
    return manifest, weights


class _Config:
    """A configuration whose references (`@key`, `@a#b`) are followed and whose expressions are refused."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def value(self, key: str) -> Any:
        """The value at `key` (`a#b` below a), with its references put in. Raises `BundleError`."""
        if not self.has(key):
            raise BundleError(f"The configuration has no {key!r}.", "Write it out in configs/inference.json.")
        return self._resolved(self._at(key), key, frozenset({key}))

    def has(self, key: str) -> bool:
        return self._at(key) is not None

    def raw(self, key: str) -> Any:
        """The value at `key` as it stands, None where there is none; its references are not followed."""
        return self._at(key)

    def _at(self, key: str) -> Any:
        found: Any = self.content
        for word in key.replace("::", "#").split("#"):
            if isinstance(found, list) and word.isdigit() and int(word) < len(found):
                found = found[int(word)]
            elif isinstance(found, dict):
                found = found.get(word)
            else:
                return None
        return found

    def _resolved(self, value: Any, place: str, seen: frozenset[str]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolved(item, f"{place}#{key}", seen) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, f"{place}#{number}", seen) for number, item in enumerate(value)]
        if isinstance(value, str) and value.startswith("$"):
            raise BundleError(
                f"{place} is the Python expression {value[:60]!r}, and expressions of a bundle are never run.",
                "Write its value into configs/inference.json.",
            )
        if isinstance(value, str) and value.startswith(("@", "%")):
            target = value[1:]
            if target in seen or not self.has(target):
                raise BundleError(f"{place} refers to {target!r}, which is not there.", "Correct the configuration.")
            return self._resolved(self._at(target), target, seen | {target})
        return value


def _load(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise BundleError(f"{name} cannot be read: {type(error).__name__}.", "Correct the file.") from error
        if isinstance(found, dict):
            return found
    raise BundleError(f"The bundle has no {' or '.join(names)}.", "Import the whole folder of the bundle.")


def _network(folder: Path, config: _Config, dimensions: int) -> tuple[dict[str, Any], Mapping[str, Tensor] | Path]:
    from inference.registry.state_dict import read_state_dict

    weights = next((folder / "models" / name for name in ("model.safetensors", "model.pt", "model.pth")
                    if (folder / "models" / name).is_file()), None)  # fmt: skip
    script = folder / "models" / "model.ts"
    if weights is not None and config.has("network_def"):
        definition = dict(config.value("network_def"))
        target = str(definition.pop("_target_", "")).rsplit(".", 1)[-1]
        definition.pop("_disabled_", None)
        network = {"name": f"monai.{target}", "dimensions": dimensions, "parameters": _plain(definition)}
        return network, read_state_dict(weights)
    if script.is_file():
        return {"name": "torchscript", "dimensions": dimensions}, script
    raise BundleError(
        "The bundle has neither models/model.pt with a network_def in its configuration nor models/model.ts.",
        "Export it once more with `python -m monai.bundle ckpt_export`, or put the weights into models/.",
    )


def _plain(definition: dict[str, Any]) -> Parameters:
    try:
        return json.loads(json.dumps(definition))
    except TypeError as error:
        raise BundleError("The arguments of network_def are no plain values.", "Write them out as JSON.") from error


def _channel_names(inputs: dict[str, Any], count: int) -> list[str]:
    """What the input's channels are called; numbers where that is not said."""
    told = inputs.get("channel_def", {})
    if count == 1:
        return ["image"]
    return [str(told.get(str(n)) or f"image {n + 1}") for n in range(count)]


def _output(config: _Config) -> dict[str, Any]:
    """Activation and threshold, as the post-processing applies them; softmax where it says nothing."""
    made = {"activation": "softmax", "threshold": 0.5}
    if not config.has("postprocessing"):
        return made
    # The rest of the post-processing inverts transforms and saves files, which is done here in another way.
    transforms = config.raw("postprocessing#transforms") or []
    for number, transform in enumerate(transforms if isinstance(transforms, list) else []):
        name = str(transform.get("_target_", "")).rsplit(".", 1)[-1].removesuffix("d")
        place = f"postprocessing#transforms#{number}"
        if name == "Activations" and config.has(f"{place}#sigmoid") and config.value(f"{place}#sigmoid") is True:
            made["activation"] = "sigmoid"
        if name == "AsDiscrete" and config.has(f"{place}#threshold"):
            made["threshold"] = float(config.value(f"{place}#threshold"))
    return made


def _labels(output: dict[str, Any], *, with_background: bool) -> list[dict[str, Any]]:
    named = {int(key): str(name) for key, name in output.get("channel_def", {}).items() if str(key).isdigit()}
    if not named or sorted(named) != list(range(len(named))) or len(named) < 1 + with_background:
        raise BundleError(
            "metadata.json does not name the output channels from 0 on.",
            "Write them as network_data_format.outputs.pred.channel_def.",
        )
    has_background = "background" in named[0].lower()
    if with_background and not has_background:
        raise BundleError(
            f"Channel 0 of the output is {named[0]!r}, not the background, and the post-processing is no sigmoid.",
            "Write Activationsd with sigmoid into postprocessing of configs/inference.json where structures may "
            "overlap, or name the background.",
        )
    kept = [name for number, name in sorted(named.items()) if number or not with_background]
    return [{"number": number, "name": name[:1].upper() + name[1:]} for number, name in enumerate(kept, start=1)]


def _window(config: _Config, inputs: dict[str, Any], task: str) -> tuple[list[int], float]:
    """Window (x, y, z, or x, y) and overlap of the sliding window; of a classifier the size of its image."""
    roi: Any = None
    overlap = 0.25  # MONAI's default
    if task == "segmentation" and config.has("inferer#roi_size"):
        roi = config.value("inferer#roi_size")
        overlap = float(config.value("inferer#overlap")) if config.has("inferer#overlap") else overlap
    shape = inputs.get("spatial_shape")
    roi = shape if roi is None else roi
    roi = [roi] * (len(shape) if isinstance(shape, list) else 3) if isinstance(roi, int) else roi
    if not (isinstance(roi, list) and len(roi) in (2, 3) and all(isinstance(n, int) and n > 0 for n in roi)):
        raise BundleError(
            "The size of the image or of the sliding window is not written out as two or three whole numbers.",
            "Give inferer.roi_size in configs/inference.json, or spatial_shape in configs/metadata.json.",
        )
    return roi, overlap


def _steps(preprocessing: Any, channels: int) -> list[Step]:
    transforms = preprocessing.get("transforms") if isinstance(preprocessing, dict) else preprocessing
    if not isinstance(transforms, list):
        raise BundleError("preprocessing is no list of transforms.", "Write it as a Compose of transforms.")
    steps: list[Step] = []
    for number, transform in enumerate(transforms, start=1):
        name = str(transform.get("_target_", "")).rsplit(".", 1)[-1].removesuffix("d")
        if name in WITHOUT_EFFECT or transform.get("_disabled_") is True:
            continue
        if name not in _TRANSFORMS:
            raise BundleError(
                f"Transform {number} of the preprocessing, {name}d, has no counterpart here.",
                "Import the weights with a manifest of your own (docs/bundle.md). "
                f"Known transforms: {', '.join(_TRANSFORMS)}.",
            )
        if channels > 1 and name in BY_CHANNEL and transform.get("channel_wise") is not True:
            raise BundleError(
                f"Transform {number} of the preprocessing, {name}d, looks at all {channels} channels together, which "
                "has no counterpart here.",
                "Set channel_wise, where the model was trained so.",
            )
        steps += _TRANSFORMS[name](transform)
    return steps


def _spacing(t: dict[str, Any]) -> list[Step]:
    pixdim = t["pixdim"]
    return [{"name": "resample", "spacing": [max(0.0, float(value)) for value in reversed(pixdim)]}]


def _range(t: dict[str, Any]) -> list[Step]:
    lower, upper = float(t["a_min"]), float(t["a_max"])
    line = {
        "lower": lower,
        "upper": upper,
        "to_lower": float(t.get("b_min") or 0),
        "to_upper": float(t.get("b_max") or 1),
    }
    steps: list[Step] = [{"name": "rescale", **line}]
    return [{"name": "window", "lower": lower, "upper": upper}, *steps] if t.get("clip") else steps


def _percentiles(t: dict[str, Any]) -> list[Step]:
    if not t.get("clip") or t.get("relative"):
        raise BundleError("ScaleIntensityRangePercentilesd is known with clip and without relative.", "Change it.")
    steps: list[Step] = [{"name": "clip_percentile", "lower": float(t["lower"]), "upper": float(t["upper"])},
             {"name": "normalise", "method": "range"}]  # fmt: skip
    return steps + _unit_range(float(t["b_min"]), float(t["b_max"]))


def _unit_range(low: float, high: float) -> list[Step]:
    return [] if (low, high) == (0, 1) else [
        {"name": "rescale", "lower": 0.0, "upper": 1.0, "to_lower": low, "to_upper": high}]  # fmt: skip


def _zscore(t: dict[str, Any]) -> list[Step]:
    if t.get("subtrahend") is not None or t.get("divisor") is not None:
        raise BundleError(
            "NormalizeIntensityd with fixed numbers has no counterpart here.", "Use ScaleIntensityRanged."
        )
    nonzero = bool(t.get("nonzero"))
    region = {"region": "nonzero", "zeros": "keep"} if nonzero else {"region": "all"}
    return [{"name": "normalise", "method": "zscore", **region}]


def _scale(t: dict[str, Any]) -> list[Step]:
    if t.get("factor") is not None or t.get("minv", 0) is None:
        raise BundleError("ScaleIntensityd with a factor has no counterpart here.", "Use minv and maxv.")
    low, high = float(t.get("minv", 0)), float(t.get("maxv", 1))
    return [{"name": "normalise", "method": "range"}, *_unit_range(low, high)]


_TRANSFORMS: dict[str, Callable[[dict[str, Any]], list[Step]]] = {
    "Orientation": lambda t: [{"name": "orient", "to": str(t["axcodes"])}],
    "Spacing": _spacing,
    "ScaleIntensityRange": _range,
    "ScaleIntensityRangePercentiles": _percentiles,
    "NormalizeIntensity": _zscore,
    "ScaleIntensity": _scale,
    "CropForeground": lambda t: [{"name": "crop_foreground", "above": 0.0, "margin": 0.0}],
}
