"""A bundle at work: a volume in, a label map on the same grid out. No database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from inference.errors import PredictionError
from inference.imaging import grids, preprocessing
from inference.networks.sliding_window import probabilities
from inference.prediction.output import Output
from inference.registry import programs
from inference.registry.bundle import Bundle
from inference.training.fit import use_all_cores
from studies.dicom.volume import Volume

WARM_MODELS = 2


@dataclass(frozen=True)
class LoadedModel:
    bundle: Bundle
    network: nn.Module
    device: torch.device

    def predict(self, volume: Volume, *, tick: Callable[[], None] | None = None) -> Output:
        """Prepare as in training, slide the window, go back to the original grid, take the likeliest class.

        tick: called before every window. Raises `PreprocessingError` and `PredictionError`.
        """
        manifest = self.bundle.manifest
        prepared = preprocessing.prepare(volume, manifest["preprocessing"])
        check_size(manifest, prepared)
        if manifest["task"] == "classification":
            return self._classify(prepared)
        found = probabilities(
            self.network, torch.from_numpy(prepared.array)[None], manifest["inference"], tick=tick
        ).cpu()
        return to_output(found.numpy(), prepared, volume, manifest["labels"])

    def _classify(self, prepared: Volume) -> Output:
        manifest = self.bundle.manifest
        image = torch.from_numpy(grids.to_size(prepared.array, manifest["inference"]["window"]))[None, None]
        image = image.to(self.device)
        with torch.inference_mode():
            logits = self.network(image[:, :, 0] if manifest["network"]["dimensions"] == 2 else image)
        shares = torch.softmax(logits[0].float(), dim=0).tolist()
        return Output(dict(zip((label["name"] for label in manifest["labels"]), shares, strict=True)))


def to_output(found: np.ndarray, prepared: Volume, volume: Volume, labels: list[dict[str, Any]]) -> Output:
    """Probabilities [c, z, y, x] on the grid of `prepared` as label map and figures on the grid of `volume`."""
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


def check_size(manifest: dict[str, Any], prepared: Volume) -> None:
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


def check_modality(manifest: dict[str, Any], modality: str) -> None:
    """Raise `PredictionError` where the model was not made for this modality."""
    accepted = manifest["inputs"][0].get("modality") or []
    if accepted and modality not in accepted:
        raise PredictionError(
            f"The image is {modality or 'of unknown modality'}, the model works on {' or '.join(accepted)}.",
            f"Choose a series of modality {' or '.join(accepted)}, or another model.",
        )


def load(bundle: Bundle) -> LoadedModel:
    """The network on the graphics card where there is one, else on all cores. Raises `BundleError`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_all_cores()
    network = bundle.network().to(device)
    spec = bundle.manifest["network"]
    if spec["dimensions"] == 3 and spec["name"] not in programs.FILES:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return LoadedModel(bundle, network, device)


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
