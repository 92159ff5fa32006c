"""How much memory training will need, before it starts."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


def training_bytes(network: nn.Module, *, batch: int, in_channels: int, patch: Sequence[int]) -> int:
    """Bytes for weights, gradients, two optimiser moments, averaged weights, activations and their gradients, float32.

    Activations are summed over the leaves of the network on torch's meta device, so nothing is computed or allocated.
    """
    model = copy.deepcopy(network).to("meta").train()
    elements = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal elements
        if isinstance(output, torch.Tensor):
            elements += output.numel()

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(batch, in_channels, *patch, device="meta"))
    weights = sum(parameter.numel() for parameter in network.parameters())
    largest_gradients = elements  # kept alive while the backward pass walks back
    return 4 * (5 * weights + elements + largest_gradients // 2)
