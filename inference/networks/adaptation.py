"""Classifiers taken apart: the features before the last layer, and the same network as a fully convolutional one.

Where a fully connected layer reads a feature map of h×w cells it is a convolution with a kernel of h×w cells (Shelhamer
et al., arXiv:1605.06211). With its weights as kernel the network gives the same logits at the size it was made for, and
a map of scores on a larger image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inference.errors import NetworkError


@dataclass(frozen=True)
class Parts:
    """trunk: image to feature map. side: cells to which the map is pooled before it is read (None: not pooled; 1: its
    mean). layers: what follows, ending with the linear layer that gives the logits."""

    trunk: nn.Module
    side: int | None
    layers: list[nn.Module]


class Trunk(nn.Module):
    """Modules of a network, one after the other, under their own names."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            module: Any = getattr(self.network, name)
            x = module(x)
        return x


def parts(network: nn.Module) -> Parts:
    """Raises `NetworkError` for networks that are no convolutional classifiers."""
    from monai.networks.nets import DenseNet, ResNet

    from inference.networks.alexnet import AlexNet
    from inference.networks.darkcovidnet import DarkCovidNet
    from inference.networks.vgg import VGG

    if isinstance(network, ResNet):
        names = ["conv1", "bn1", "act", *([] if network.no_max_pool else ["maxpool"])]
        fc: Any = network.fc
        return Parts(Trunk(network, [*names, "layer1", "layer2", "layer3", "layer4"]), 1, [fc])
    if isinstance(network, DenseNet):
        layers: Any = network.class_layers
        return Parts(Trunk(nn.Sequential(network.features, layers.relu), ["0", "1"]), 1, [layers.out])
    if getattr(network, "pooling", "top") != "top":
        raise NetworkError(
            "A network whose last layer reads several feature maps cannot be made fully convolutional.",
            'Train it with pooling = "top".',
        )
    if hasattr(network, "features") and hasattr(network, "classifier"):
        side = {AlexNet: 6, VGG: 7, DarkCovidNet: None}.get(type(network), 1)
        whole: Any = network
        return Parts(Trunk(network, ["features"]), side, list(whole.classifier))
    raise NetworkError(
        f"A {type(network).__name__} cannot be made fully convolutional.", "Choose a convolutional classifier."
    )


def head_of(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the layer that gives the logits. Raises `NetworkError`."""
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise NetworkError("The network has no linear layer that gives the logits.", "Choose a classifier.")
    return linear[-1]


def extract(network: nn.Module, images: Tensor) -> Tensor:
    """What the last layer reads, [b, features], for images [b, inputs, …]; the network is not changed."""
    _, head = head_of(network)
    caught: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, arguments, output: caught.append(arguments[0]))
    try:
        with torch.no_grad():
            network(images)
    finally:
        handle.remove()
    return caught[0]


class FullyConvolutional(nn.Module):
    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def fully_convolutional(network: nn.Module, inputs: int, size: Sequence[int]) -> nn.Module:
    """The classifier as a network that gives a score map [b, outputs, …] for images of `size` or larger.

    size: what the classifier was made for, pixels. At that size the map has one cell, with the classifier's logits.
    Weights are copied. Raises `NetworkError`, also where pooling would mix cells at that size.
    """
    taken = parts(copy.deepcopy(network).eval())
    with torch.no_grad():
        grid = taken.trunk(torch.zeros(1, inputs, *size)).shape[2:]
    dimensions = len(grid)
    convolution, average = (nn.Conv2d, nn.AvgPool2d) if dimensions == 2 else (nn.Conv3d, nn.AvgPool3d)
    layers: list[nn.Module] = []
    kernel: tuple[int, ...] = tuple(grid)
    if taken.side == 1:
        layers.append(average(kernel, stride=1))  # type: ignore[arg-type]
        kernel = (1,) * dimensions
    elif taken.side is not None and set(grid) != {taken.side}:
        raise NetworkError(
            f"At {_by(size)} pixels the feature map has {_by(grid)} cells, and the classifier reads "
            f"{_by([taken.side] * dimensions)}.",
            "Give the size that the network was made for.",
        )
    for module in taken.layers:
        if not isinstance(module, nn.Linear):
            if not isinstance(module, nn.Flatten | nn.Dropout):
                layers.append(module)
            continue
        channels = module.in_features // math.prod(kernel)
        made = convolution(channels, module.out_features, kernel)  # type: ignore[arg-type]
        with torch.no_grad():
            made.weight.copy_(module.weight.reshape(made.weight.shape))
            if made.bias is not None:
                made.bias.copy_(module.bias)
        layers.append(made)
        kernel = (1,) * dimensions
    return FullyConvolutional(taken.trunk, nn.Sequential(*layers)).eval()


def _by(size: Sequence[int]) -> str:
    return "×".join(str(n) for n in size)
