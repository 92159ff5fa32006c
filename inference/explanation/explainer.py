"""A loaded classifier and an image in, maps on the image's own grid out. No database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference.explanation import maps
from inference.explanation.settings import Wanted
from inference.imaging import grids, preprocessing
from inference.prediction.output import Map
from studies.dicom.volume import Volume

if TYPE_CHECKING:
    from inference.prediction.engine import LoadedModel


def explain(model: LoadedModel, volume: Volume, asked: Wanted, *, tick: Callable[[float], None]) -> Iterator[Map]:
    """One map for each label, on the grid of `volume`, 0 where the model does not look.

    Grad-CAM: from 0, comparable within the map. Occlusion: how much probability (of a regression: how much of its
    value) is lost where a part is covered, negative where it is gained. tick: called with the share done, may raise.
    Raises `PreprocessingError` and `ExplanationError`.
    """
    manifest = model.bundle.manifest
    prepared = preprocessing.prepare(volume, manifest["preprocessing"])
    seen = grids.fitted(prepared, manifest["inference"]["window"])
    flat = manifest["network"]["dimensions"] == 2
    image = torch.from_numpy(seen.array)[None, None].to(model.device)
    image = image[:, :, 0] if flat else image
    names = [label["name"] for label in manifest["labels"]]

    def placed(values: np.ndarray) -> Volume:
        on_window = values[None] if flat else values
        return volume.like(grids.resample_channels(on_window[None], seen, volume, outside=[0.0])[0])

    if asked.method == "grad_cam":
        for number, name in enumerate(asked.labels):
            tick(number / len(asked.labels))
            found = maps.grad_cam(model.network, image, names.index(name)).cpu().numpy()
            where = maps.cells(model.network, image.shape[2:], found.shape)
            yield Map("grad_cam", name, placed(maps.spread(found, where, image.shape[2:])), "activation")
        return
    falls = maps.occlusion(
        _answers(model),
        image,
        patch=asked.patch,
        stride=asked.stride,
        baseline=asked.baseline,
        tick=tick,
    )
    quantity = "value" if manifest["task"] == "regression" else "probability"
    for name in asked.labels:
        yield Map("occlusion", name, placed(falls[names.index(name)].numpy()), quantity)


def _answers(model: LoadedModel) -> maps.Scores:
    """Images to probabilities, or to values of a regression."""
    manifest = model.bundle.manifest
    sigmoid = (manifest.get("output") or {}).get("activation") == "sigmoid"

    def answers(images: torch.Tensor) -> torch.Tensor:
        logits = model.network(images).float()
        if manifest["task"] == "regression":
            return logits
        return torch.sigmoid(logits) if sigmoid else torch.softmax(logits, dim=1)

    return answers
