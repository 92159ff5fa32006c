"""A loaded classifier and its images in, maps on the first image's own grid out. No database.

What is explained is the answer as it is given: of an ensemble, with mirror images and shifts, over the slices.
Occlusion covers the images and asks anew. Grad-CAM is the mean over the members, on the image as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from inference.explanation import maps
from inference.explanation.settings import Wanted
from inference.imaging import grids
from inference.networks import sliding_window
from inference.prediction.output import Map
from studies.dicom.volume import Volume

if TYPE_CHECKING:
    from inference.prediction.engine import LoadedModel


def explain(
    model: LoadedModel,
    volume: Volume,
    asked: Wanted,
    *,
    others: Sequence[Volume] = (),
    tick: Callable[[float], None],
) -> Iterator[Map]:
    """One map for each label, on the grid of `volume`, 0 where the model does not look.

    Grad-CAM: from 0, comparable within the map. Occlusion: how much probability (of a regression: how much of the
    value, in its unit) is lost where a part is covered, negative where it is gained. others: as `LoadedModel.predict`
    takes them. tick: called with the share done, may raise. Raises `PreprocessingError`, `PredictionError` and
    `ExplanationError`.
    """
    manifest = model.bundle.manifest
    seen = _needed(model, model.whole(model.prepare(volume, others)))
    image = torch.from_numpy(np.stack([one.array for one in seen])).to(model.device)
    labels = {label["name"]: (place, label) for place, label in enumerate(manifest["labels"])}

    def placed(values: np.ndarray) -> Volume:
        return volume.like(grids.resample_channels(values[None], seen[0], volume, outside=[0.0])[0])

    if asked.method == "grad_cam":
        for number, name in enumerate(asked.labels):
            tick(number / len(asked.labels))
            yield Map("grad_cam", name, placed(_activation(model, image, labels[name][0])), "activation")
        return
    patch, stride = asked.boxes(image.shape[1:])
    falls = maps.occlusion(_answers(model), image[None], patch=patch, stride=stride, baseline=asked.baseline, tick=tick)
    regression = manifest["task"] == "regression"
    for name in asked.labels:
        place, label = labels[name]
        scale = float(label.get("scale", 1.0)) if regression else 1.0
        unit = label.get("unit", "1") if regression else "1"
        values = placed(falls[place].numpy() * np.float32(scale))
        yield Map("occlusion", name, values, "value" if regression else "probability", unit)


def _needed(model: LoadedModel, seen: list[Volume]) -> list[Volume]:
    """Of a network that looks at the middle slice alone that one with its neighbours, as the others change nothing."""
    settings = model.bundle.manifest["inference"]
    reach = int(settings.get("slices", 1)) // 2
    middle, depth = (seen[0].shape[0] - 1) // 2, seen[0].shape[0]
    alone = model.bundle.manifest["network"]["dimensions"] == 2 and settings.get("pooling", "centre") == "centre"
    if not alone or middle < reach or middle + reach >= depth or settings.get("shifts"):
        return seen
    made = []
    for one in seen:
        moved = np.asarray(one.direction)[:, 2] * one.spacing[0] * (middle - reach)
        origin = tuple(float(v) for v in np.asarray(one.origin) + moved)
        part = one.array[middle - reach : middle + reach + 1]
        made.append(Volume(part, one.spacing, origin, one.direction))  # type: ignore[arg-type]
    return made


def _answers(model: LoadedModel) -> maps.Scores:
    """Images [b, input, z, y, x] to what the model says of each: probabilities, or what a regression gives."""
    manifest = model.bundle.manifest

    def answers(images: Tensor) -> Tensor:
        return torch.stack(
            [
                sliding_window.of_whole_image(
                    model.networks,
                    image,
                    manifest["inference"],
                    dimensions=manifest["network"]["dimensions"],
                    activation=manifest["output"]["activation"],
                ).mean
                for image in images
            ]
        )

    return answers


def _activation(model: LoadedModel, image: Tensor, label: int) -> np.ndarray:
    """Grad-CAM [z, y, x] of an image [input, z, y, x], the mean over the members of an ensemble.

    A network in 2-D is asked slice by slice, as it is in the prediction; where the maximum over the slices counts, the
    slice that gives it is explained alone.
    """
    settings = model.bundle.manifest["inference"]
    turned = settings.get("axes", "zyx") == "xyz"
    made = np.zeros(image.shape[1:], dtype=np.float32)
    for network in model.networks:
        if model.bundle.manifest["network"]["dimensions"] == 3:
            made += _of_one(network, image[None], label, turned)
            continue
        stack = sliding_window.with_neighbours(image, int(settings.get("slices", 1))).transpose(0, 1)
        for z in _slices(network, stack, label, settings.get("pooling", "centre"), turned):
            made[z] += _of_one(network, stack[z : z + 1], label, turned)
    return made / np.float32(len(model.networks))


def _slices(network: torch.nn.Module, stack: Tensor, label: int, pooling: str, turned: bool) -> list[int]:
    """The slices whose answers count, of a stack [z, channel, y, x]."""
    if pooling == "centre":
        return [(len(stack) - 1) // 2]
    if pooling == "mean":
        return list(range(len(stack)))
    with torch.inference_mode():
        logits = [network(sliding_window.turn(one) if turned else one)[0, label] for one in stack.split(1)]
    return [int(torch.stack(logits).argmax())]


def _of_one(network: torch.nn.Module, image: Tensor, label: int, turned: bool) -> np.ndarray:
    """Grad-CAM [(z,) y, x] of what a network takes, [1, channel, (z,) y, x]."""
    shown = sliding_window.turn(image) if turned else image
    found = maps.grad_cam(network, shown, label).cpu().numpy()
    spread = maps.spread(found, maps.cells(network, shown.shape[2:], found.shape), shown.shape[2:])
    return spread.T if turned else spread
