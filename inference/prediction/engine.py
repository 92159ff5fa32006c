"""A bundle at work: an image in, an `Output` out. No database."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from inference.errors import PredictionError
from inference.imaging import grids, preprocessing
from inference.jobs.failures import is_out_of_memory, message_of
from inference.networks import memory, sampling, sliding_window
from inference.prediction import detection
from inference.prediction.output import Map, Output
from inference.registry import manifest as manifests
from inference.registry import programs
from inference.registry.bundle import Bundle
from inference.registry.manifest import Manifest
from inference.training.fit import free_memory, use_all_cores
from studies.dicom.volume import Volume

logger = logging.getLogger(__name__)

WARM_MODELS = 2
Tick = Callable[[], None] | None


@dataclass(frozen=True)
class LoadedModel:
    """A bundle with its network on a device; `others` are the further members of an ensemble."""

    bundle: Bundle
    network: nn.Module
    device: torch.device
    others: tuple[nn.Module, ...] = ()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network, *self.others)

    def predict(self, volume: Volume, *, others: Sequence[Volume] = (), tick: Tick = None) -> Output:
        """Prepare as in training, ask the network, and bring what it says back to the grid of `volume`.

        others: what the model's further inputs see, in the manifest's order, on the grid of `volume`.
        tick: called before every window. Raises `PreprocessingError` and `PredictionError`.
        """
        manifest = self.bundle.manifest
        prepared = self.prepare(volume, others)
        self._check_memory(prepared[0], volume)
        try:
            if manifest["task"] == "segmentation":
                return self._segment(prepared, volume, tick)
            if manifest["task"] == "detection":
                return detection.run(self.networks, prepared, volume, manifest, tick=tick)
            return self._judge(prepared, tick)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # What torch says names tensors and their sizes, not patients.
            raise PredictionError(
                f"The network cannot work on this image: {message_of(error)[:200]}",
                "Compare the image with those that the model was made for; correct the manifest where it is wrong.",
            ) from error

    def prepare(self, volume: Volume, others: Sequence[Volume] = ()) -> list[Volume]:
        """Every input as in training, all on one grid. Raises `PreprocessingError` and `PredictionError`."""
        manifest = self.bundle.manifest
        check_channels(manifest, 1 + len(others))
        check_anisotropy(manifest, volume)
        own = [
            preprocessing.prepare(image, entry["preprocessing"]) if entry.get("preprocessing") else image
            for image, entry in zip([volume, *others], manifest["inputs"], strict=True)
        ]
        prepared = preprocessing.prepare_all(own, manifest["preprocessing"])
        check_size(manifest, prepared[0])
        return prepared

    def whole(self, prepared: Sequence[Volume]) -> list[Volume]:
        """What a network sees that judges the image as a whole: cut, or its edges repeated, to the window; of a network
        in 2-D every slice."""
        manifest = self.bundle.manifest
        settings = manifest["inference"]
        size = list(settings["window"])
        if manifest["network"]["dimensions"] == 2 and (settings.get("pooling") or settings.get("slices", 1) > 1):
            size[0] = prepared[0].shape[0]
        return [grids.fitted(one, size) for one in prepared]

    @cached_property
    def window_bytes(self) -> int:
        """What one window takes in the network; 0 where it cannot be told beforehand, as of ONNX and TorchScript."""
        manifest = self.bundle.manifest
        window, settings = list(manifest["inference"]["window"]), manifest["inference"]
        shape = [1, len(manifest["inputs"]) * int(settings.get("slices", 1)), *window]
        if manifest["network"]["dimensions"] == 2:
            del shape[2]
        try:
            return max(memory.forward_bytes(network, shape) for network in self.networks)
        except Exception as error:  # whatever a foreign network cannot do without its weights: it is run all the same
            logger.info("the memory of %s is not known beforehand (%s)", type(self.network).__name__, error)
            return 0

    def _check_memory(self, prepared: Volume, volume: Volume) -> None:
        """Raise `PredictionError` where this image would take more memory than is free."""
        manifest = self.bundle.manifest
        settings = manifest["inference"]
        whole = manifest["task"] != "segmentation"
        background = not whole and manifest["output"]["activation"] == "softmax"
        image = memory.Image(
            voxels=math.prod(settings["window"] if whole else map(max, prepared.shape, settings["window"])),
            original=math.prod(volume.shape),
            inputs=len(manifest["inputs"]),
            classes=0 if whole else len(manifest["labels"]) + background,
            slices=int(settings.get("slices", 1)),
            samples=sampling.count(len(self.networks), settings),
            uncertainty=bool(settings.get("uncertainty")) and not whole,
        )
        needed = memory.inference_bytes(image, self.window_bytes)
        free, place = free_memory()
        if needed <= free:
            return
        size = "×".join(str(n) for n in prepared.shape)
        raise PredictionError(
            f"The model would need about {needed / 2**30:.1f} GB of memory for this image of {size} voxels "
            f"(z, y, x, after preprocessing) in {max(1, len(manifest['labels']))} structures or classes; {place} has "
            f"{free / 2**30:.1f} GB free.",
            "Close other jobs on that machine, run it on a larger one, or import the model with a smaller "
            "inference.window or a coarser spacing.",
        )

    def _judge(self, prepared: Sequence[Volume], tick: Tick) -> Output:
        """The image as a whole: probabilities of classes or labels, or values."""
        manifest = self.bundle.manifest
        settings, labels = manifest["inference"], manifest["labels"]
        measure = settings.get("uncertainty", "")
        image = np.stack([one.array for one in self.whole(prepared)])
        tally = sliding_window.of_whole_image(
            self.networks,
            torch.from_numpy(image),
            settings,
            dimensions=manifest["network"]["dimensions"],
            activation=manifest["output"]["activation"],
            measure=measure,
            tick=tick,
        )
        found = tally.mean.tolist()
        if manifest["task"] == "regression":
            spread = tally.variance().sqrt().tolist() if measure else [None] * len(labels)
            return Output({}, values=to_values(found, spread, labels), uncertainty=self._uncertainty(None))
        uncertainty = tally.uncertainty()
        return Output(
            {label["name"]: share for label, share in zip(labels, found, strict=True)},
            uncertainty=self._uncertainty(None if uncertainty is None else float(uncertainty)),
        )

    def _segment(self, prepared: Sequence[Volume], volume: Volume, tick: Tick) -> Output:
        manifest = self.bundle.manifest
        activation = manifest["output"]["activation"]
        tally = sliding_window.sampled(
            self.networks,
            torch.from_numpy(np.stack([one.array for one in prepared])),
            manifest["inference"],
            activation=activation,
            measure=manifest["inference"].get("uncertainty", ""),
            tick=tick,
        )
        found, uncertainty = tally.mean.cpu().numpy(), tally.uncertainty()
        place, labels = prepared[0], manifest["labels"]
        if activation == "sigmoid":
            parts = to_masks(found, place, volume, labels, manifests.thresholds(manifest))
        else:
            parts = to_label_map(found, place, volume, labels)
        maps = []
        told: dict[str, Any] = {}
        if uncertainty is not None:
            measure = manifest["inference"]["uncertainty"]
            array = grids.resample_channels(uncertainty.cpu().numpy()[None], place, volume, outside=[0.0])[0]
            inside = np.asarray(parts.label_map) > 0 if parts.masks is None else parts.masks.any(axis=0)
            told = self._uncertainty(float(array[inside].mean()) if inside.any() else None)
            told["over"] = "voxels of the structures found"
            maps.append(Map("uncertainty", "", volume.like(array), measure, sampling.UNITS[measure]))
        if "probability" in manifest["output"].get("maps", ()):
            first = len(found) - len(labels)  # past the background
            for channel, label in zip(found[first:], labels, strict=True):
                array = grids.resample_channels(channel[None], place, volume, outside=[0.0])[0]
                maps.append(Map("probability", label["name"], volume.like(array), "probability"))
        return Output(
            parts.scores,
            parts.label_map,
            masks=parts.masks,
            volumes_ml=parts.volumes_ml,
            maps=maps,
            uncertainty=told,
        )

    def _uncertainty(self, value: float | None) -> dict[str, Any]:
        """With the name of the method beside the number; empty where the manifest asks for none."""
        settings = self.bundle.manifest["inference"]
        measure = settings.get("uncertainty", "")
        if not measure:
            return {}
        regression = self.bundle.manifest["task"] == "regression"
        return {
            "measure": "standard_deviation" if regression else measure,
            "unit": "" if regression else sampling.UNITS[measure],
            "value": value,
            "method": sampling.method(len(self.networks), settings),
            "samples": sampling.count(len(self.networks), settings),
        }


def to_label_map(found: np.ndarray, prepared: Volume, volume: Volume, labels: list[dict[str, Any]]) -> Output:
    """Probabilities [background and labels, z, y, x] on the grid of `prepared` as label map and figures on the grid of
    `volume`: the likeliest wins."""
    best = np.full(volume.shape, -1.0, dtype=np.float32)
    label_map = np.zeros(volume.shape, dtype=np.uint8)
    for number in range(len(found)):  # one class at a time: a whole CT in all classes would not fit
        outside = [1.0 if number == 0 else 0.0]
        share = grids.resample_channels(found[number : number + 1], prepared, volume, outside=outside)[0]
        better = share > best
        best[better], label_map[better] = share[better], number
    counts = np.bincount(label_map.ravel(), minlength=len(labels) + 1)
    return Output(
        {label["name"]: float(found[label["number"]].max()) for label in labels},
        label_map,
        volumes_ml={label["name"]: float(counts[label["number"]] * volume.voxel_volume_ml) for label in labels},
    )


def to_masks(
    found: np.ndarray, prepared: Volume, volume: Volume, labels: list[dict[str, Any]], limits: dict[str, float]
) -> Output:
    """Probabilities [label, z, y, x] on the grid of `prepared` as masks that may overlap on the grid of `volume`: each
    label from its own threshold on."""
    masks = np.zeros((len(labels), *volume.shape), dtype=bool)
    for place, label in enumerate(labels):
        share = grids.resample_channels(found[place : place + 1], prepared, volume, outside=[0.0])[0]
        masks[place] = share >= limits[label["name"]]
    return Output(
        {label["name"]: float(channel.max()) for label, channel in zip(labels, found, strict=True)},
        masks=masks,
        volumes_ml={
            label["name"]: float(mask.sum() * volume.voxel_volume_ml) for label, mask in zip(labels, masks, strict=True)
        },
    )


def to_values(
    found: Sequence[float], spread: Sequence[float | None], labels: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What a regression gave, in the target's own unit: output · scale + mean. sd: over the answers averaged."""
    values: dict[str, dict[str, Any]] = {}
    for label, number, sd in zip(labels, found, spread, strict=True):
        scale = float(label.get("scale", 1.0))
        value: dict[str, Any] = {
            "value": number * scale + float(label.get("mean", 0.0)),
            "unit": label.get("unit", "1"),
        }
        values[label["name"]] = value if sd is None else {**value, "sd": sd * abs(scale)}
    return values


def check_channels(manifest: Manifest, found: int) -> None:
    """Raise `PredictionError` where the model takes another number of images."""
    names = [one.get("name", "image") for one in manifest["inputs"]]
    if found != len(names):
        raise PredictionError(
            f"The model takes {len(names)} images ({', '.join(names)}), and {found} were given.",
            "Choose a series for each input of the model.",
        )


def check_size(manifest: Manifest, prepared: Volume) -> None:
    """Raise `PredictionError` where the prepared image is too small for this model to say anything."""
    smallest = manifest["inputs"][0].get("smallest") or [2, 2, 2]
    if any(have < want for have, want in zip(prepared.shape, smallest, strict=True)):
        size = "×".join(str(n) for n in prepared.shape)
        needed = "×".join(str(n) for n in smallest)
        raise PredictionError(
            f"The image has too few slices or pixels: {size} voxels (z, y, x) after preprocessing, the model needs "
            f"at least {needed}.",
            "Choose a series that covers the whole structure, not a localiser or a single slice.",
        )


def check_anisotropy(manifest: Manifest, volume: Volume) -> None:
    """Raise `PredictionError` where the voxels are longer, compared with their width, than the model was made for."""
    largest = manifest["inputs"][0].get("anisotropy")
    found = volume.anisotropy
    if largest and found > largest * 1.001:
        spacing = "×".join(f"{n:.3g}" for n in volume.spacing)
        raise PredictionError(
            f"The voxels are {spacing} mm (z, y, x), {found:.1f} times as long as wide; "
            f"the model was made for at most {largest:.3g} times.",
            "Choose a series with thinner slices, or a model that was trained on thick ones.",
        )


def check_modality(manifest: Manifest, modality: str, *, number: int = 0) -> None:
    """Raise `PredictionError` where that input of the model was not made for this modality."""
    entry = manifest["inputs"][number]
    accepted = entry.get("modality") or []
    if accepted and modality not in accepted:
        what = "The image" if len(manifest["inputs"]) == 1 else f"The series for {entry.get('name', number + 1)}"
        raise PredictionError(
            f"{what} is {modality or 'of unknown modality'}, the model works on {' or '.join(accepted)}.",
            f"Choose a series of modality {' or '.join(accepted)}, or another model.",
        )


def load(bundle: Bundle) -> LoadedModel:
    """The networks on the graphics card where there is one, else on all cores. Raises `BundleError`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_all_cores()
    specs = bundle.specs
    networks = []
    for spec, made in zip(specs, bundle.networks(), strict=True):
        network = made.to(device)
        if spec["dimensions"] == 3 and spec["name"] not in programs.FILES:
            network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        networks.append(network)
    check_dropout(bundle.manifest, networks)
    return LoadedModel(bundle, networks[0], device, tuple(networks[1:]))


def check_dropout(manifest: Manifest, networks: Sequence[nn.Module]) -> None:
    """Raise `PredictionError` where passes with dropout are asked of a network that has none."""
    if manifest["inference"].get("dropout") and not all(sampling.dropouts(network) for network in networks):
        raise PredictionError(
            "The manifest asks for passes with dropout, and the network has no dropout layer that could be turned on.",
            "Set inference.dropout to 0, or train the network with dropout.",
        )


class WarmModels:
    """The models that this process used last, so that the next study finds them loaded. Keyed by digest."""

    def __init__(self, capacity: int = WARM_MODELS) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()

    def get(self, digest: str, open_bundle: Callable[[], Bundle]) -> LoadedModel:
        with self._lock:
            if digest in self._models:
                self._models.move_to_end(digest)
                return self._models[digest]
            model = load(open_bundle())
            self._models[digest] = model
            while len(self._models) > self.capacity:
                self._models.popitem(last=False)
            return model


warm = WarmModels()
