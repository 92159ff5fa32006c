"""What in an image moves a classifier's answer: Grad-CAM and occlusion, in 2-D and 3-D. Values in, values out.

Grad-CAM (Selvaraju et al., arXiv:1610.02391) weights the last feature map by the mean gradient of a logit; it needs a
convolutional network whose layers can be seen. Occlusion (Zeiler and Fergus, arXiv:1311.2901) covers part after part of
the image and tells how much the answer falls; it needs nothing but the answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inference.errors import ExplanationError
from inference.explanation.settings import BASELINES, patch_starts

AT_ONCE = 16

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cells:
    """Where the cells of a feature map lie, in voxels of the network's input, axis by axis: centre of the first cell
    and the step to the next."""

    starts: tuple[float, ...]
    steps: tuple[float, ...]


def last_pooling(network: nn.Module) -> nn.Module | None:
    """The module that reads the last feature map: called `pool`, or the last adaptive pooling. None where there is
    none: transformers, programs."""
    if isinstance(network, torch.jit.ScriptModule):
        return None
    named = getattr(network, "pool", None)
    if isinstance(named, nn.Module):
        return named
    kinds = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
    found = [module for module in network.modules() if isinstance(module, kinds)]
    return found[-1] if found else None


def weighted_features(network: nn.Module, image: Tensor, label: int) -> Tensor:
    """Σ α_k A_k over the channels of the last feature map A, α_k the mean over the cells of ∂logit/∂A_k.

    image: [1, channel, (z,) y, x]. label: place of the logit, from 0. Result [(z,) y, x] of cells. Where the logit is a
    linear layer of the map's mean, the cells add up to the logit without its bias. The network is left as it was; its
    weights need no gradients. Raises `ExplanationError` where the network has no feature map that is seen.
    """
    pooling = last_pooling(network)
    if pooling is None:
        raise ExplanationError(
            f"Grad-CAM needs a convolutional network with a last feature map; a {type(network).__name__} shows none.",
            "Use occlusion, which needs the answers alone.",
        )
    seen: list[Tensor] = []
    handle = pooling.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    try:
        with _evaluating(network), torch.enable_grad():
            logits = network(image.detach().requires_grad_(True))
            _check_label(logits, label)
            (gradient,) = torch.autograd.grad(logits[0, label], seen[-1])
    finally:
        handle.remove()
    weights = gradient.mean(dim=tuple(range(2, gradient.ndim)), keepdim=True)
    return (weights * seen[-1].detach()).sum(dim=1)[0]


def grad_cam(network: nn.Module, image: Tensor, label: int) -> Tensor:
    """What of `weighted_features` speaks for the label: from 0, in units that compare within this map alone."""
    return torch.relu(weighted_features(network, image, label))


def cells(network: nn.Module, size: Sequence[int], grid: Sequence[int]) -> Cells:
    """Where the cells of the last feature map of `grid` cells lie in an image of `size` voxels.

    In a plain chain of convolutions and poolings (`features`) it follows from their kernels, strides and paddings; a
    network with branches keeps its borders, so its cells divide the image evenly.
    """
    features: Any = getattr(network, "features", None)
    leaves = [m for m in features.modules() if not list(m.children())] if isinstance(features, nn.Sequential) else []
    if not leaves or not _is_chain(features):
        even = tuple(n / m for n, m in zip(size, grid, strict=True))
        return Cells(tuple((step - 1) / 2 for step in even), even)
    dimensions = len(size)
    starts, steps = np.zeros(dimensions), np.ones(dimensions)
    for module in leaves:
        if isinstance(module, _SLIDING):
            kernel, stride, padding, dilation = (
                np.array(_each(getattr(module, name, 1), dimensions), dtype=float)
                for name in ("kernel_size", "stride", "padding", "dilation")
            )
            starts = starts + ((kernel - 1) * dilation / 2 - padding) * steps
            steps = steps * stride
    return Cells(tuple(map(float, starts)), tuple(map(float, steps)))


def spread(values: np.ndarray, where: Cells, size: Sequence[int]) -> np.ndarray:
    """A map of cells on every voxel of an image of `size`: linear between centres, constant beyond the outer ones."""
    made = values.astype(np.float64)
    for axis, (start, step, n) in enumerate(zip(where.starts, where.steps, size, strict=True)):
        centres = start + step * np.arange(made.shape[axis])
        lines = np.moveaxis(made, axis, -1)
        wide = [np.interp(np.arange(n), centres, line) for line in lines.reshape(-1, lines.shape[-1])]
        made = np.moveaxis(np.reshape(wide, (*lines.shape[:-1], n)), -1, axis)
    return made.astype(np.float32)


def occlusion(
    scores: Scores,
    image: Tensor,
    *,
    patch: Sequence[int],
    stride: Sequence[int],
    baseline: str | float = "mean",
    tick: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """How much each score falls when a part of the image is covered: [score, (z,) y, x], the mean over all patches that
    cover a voxel. Negative where covering it makes the score rise.

    scores: images [b, channel, (z,) y, x] to scores [b, score], such as probabilities. image: [1, channel, (z,) y, x].
    patch, stride: voxels, axis by axis; the last patch ends at the border. baseline: what covers, in every channel: its
    `mean`, its `minimum`, or a number in prepared units. A patch that already looks like that counts as no change.
    tick: called with the share done, may raise to stop. Raises `ExplanationError` with too many or too large patches.
    """
    size = tuple(image.shape[2:])
    places = _places(size, patch, stride)
    cover = _cover(image, baseline)
    with torch.inference_mode():
        whole = scores(image)[0]
        total = torch.zeros((len(whole), *size), dtype=torch.float64)
        times = torch.zeros(size, dtype=torch.float64)
        for start in range(0, len(places), AT_ONCE):
            tick(start / len(places))
            boxes = places[start : start + AT_ONCE]
            covered = [(box, made) for box in boxes if (made := _covered(image, cover, box)) is not None]
            falls = whole - scores(torch.cat([made for _, made in covered])) if covered else torch.zeros(0)
            for (box, _), fall in zip(covered, falls, strict=True):
                total[(slice(None), *box)] += fall.double().cpu().reshape(-1, *[1] * len(size))
            for box in boxes:
                times[box] += 1
    tick(1.0)
    return (total / times).float()


_SLIDING = (
    nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
_POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d, nn.Identity)


def _is_chain(module: nn.Module) -> bool:
    """Nothing but layers one after the other, so that the order of the modules is the order of the work."""
    if isinstance(module, nn.Sequential):
        return all(_is_chain(child) for child in module)
    return type(module) in _SLIDING + _POINTWISE


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * dimensions


def _check_label(logits: Tensor, label: int) -> None:
    if logits.ndim != 2 or not 0 <= label < logits.shape[1]:
        raise ExplanationError(
            f"The network gives {tuple(logits.shape)}, which has no answer number {label + 1} for one image.",
            "Choose a label of this model.",
        )


def _places(size: Sequence[int], patch: Sequence[int], stride: Sequence[int]) -> list[tuple[slice, ...]]:
    corners = itertools.product(*patch_starts(size, patch, stride))
    return [tuple(slice(a, a + n) for a, n in zip(corner, patch, strict=True)) for corner in corners]


def _cover(image: Tensor, baseline: str | float) -> Tensor:
    """[channel]: the value that covers each channel."""
    flat = image[0].flatten(1)
    if baseline == "mean":
        return flat.mean(dim=1)
    if baseline == "minimum":
        return flat.min(dim=1).values
    if isinstance(baseline, str):
        raise ExplanationError(f"There is no baseline {baseline!r}.", f"Use {', '.join(BASELINES)}, or a number.")
    return torch.full_like(flat[:, 0], float(baseline))


def _covered(image: Tensor, cover: Tensor, box: tuple[slice, ...]) -> Tensor | None:
    """The image with one part covered; None where that changes nothing."""
    values = cover.reshape(1, -1, *[1] * len(box))
    part = (slice(None), slice(None), *box)
    if bool((image[part] == values).all()):
        return None
    made = image.clone()
    made[part] = values.expand_as(made[part])
    return made


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
