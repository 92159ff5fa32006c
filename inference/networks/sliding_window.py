"""Class probabilities for an image of any size, window by window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.nn.functional import pad

AXES = {"z": -3, "y": -2, "x": -1}
# One-voxel shifts (z, y, x), in the order in which they are added.
SHIFTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))


def slicewise(network: nn.Module, images: Tensor, dimensions: int) -> Tensor:
    """A network in 3-D as it is; one in 2-D on every slice of [b, c, z, y, x]. Results keep their z axis."""
    if dimensions == 3:
        return network(images.contiguous(memory_format=torch.channels_last_3d))
    found = network(images.transpose(1, 2).flatten(0, 1))
    return found.unflatten(0, (images.shape[0], images.shape[2])).transpose(1, 2)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's weights lie; the CPU for a network without any of its own (an ONNX model)."""
    found = next(itertools.chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if found is None else found.device


def turn(images: Tensor) -> Tensor:
    """[batch, channel, z, y, x] ↔ [batch, channel, x, y, z]."""
    return images.transpose(-1, -3).contiguous()


def probabilities(
    network: nn.Module, image: Tensor, settings: Mapping[str, Any], *, tick: Callable[[], None] | None = None
) -> Tensor:
    """Softmax probabilities [c, z, y, x] for a prepared image [inputs, z, y, x], on the network's device.

    settings: the manifest's `inference`: `window` (z, y, x) voxels, z = 1 for networks in 2-D; `overlap` 0–1; `mirror`:
    axes whose mirror images are averaged; `shifts`: 0–4 one-voxel shifts that are averaged as well, since a network
    whose first layer skips every other voxel sees another image then; `axes` "xyz" where the network wants its spatial
    axes in that order. Windows are blended with a Gaussian; an image smaller than the window is padded by its edge
    values.
    tick: called before every window, so that long work can be stopped.
    """
    device = device_of(network)
    dimensions = 2 if settings["window"][0] == 1 else 3
    turned = settings.get("axes", "zyx") == "xyz"
    batch = image[None].to(device)
    mirrors: list[tuple[int, ...]] = [()]
    for axis in settings.get("mirror", ()):
        mirrors += [(*axes, AXES[axis]) for axes in mirrors]

    def predict(window: Tensor) -> Tensor:
        if tick is not None:
            tick()
        total: Tensor | None = None
        for axes in mirrors:
            flipped = torch.flip(window, axes) if axes else window
            logits = turn(network(turn(flipped))) if turned else slicewise(network, flipped, dimensions)
            share = torch.softmax(logits.float(), dim=1)
            share = torch.flip(share, axes) if axes else share
            total = share if total is None else total + share
        assert total is not None
        return total / len(mirrors)

    def slide(whole: Tensor) -> Tensor:
        result = sliding_window_inference(
            whole,
            roi_size=settings["window"],
            sw_batch_size=1,
            predictor=predict,
            overlap=settings.get("overlap", 0.5),
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(result, Tensor)
        return result[0]

    with torch.inference_mode():
        result = slide(batch)
        shifts = SHIFTS[1 : 1 + int(settings.get("shifts", 0))]
        for shift in shifts:
            z, y, x = shift
            moved = slide(pad(batch, (x, 0, y, 0, z, 0), mode="replicate"))
            result = result + moved[:, z:, y:, x:]
        return result / (1 + len(shifts))
