"""Answers of a network about an image of any size, window by window, and about a whole image at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.nn.functional import pad

from inference.networks.sampling import Sample, Tally, activate, answering, samples

Tick = Callable[[], None] | None


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
    """[batch, channel, z, y, x] ↔ [batch, channel, x, y, z]; [batch, channel, y, x] ↔ [batch, channel, x, y]."""
    return images.transpose(-1, 2).contiguous()


def with_neighbours(image: Tensor, slices: int) -> Tensor:
    """2.5-D: [channel, z, y, x] to [channel · slices, z, y, x], where each slice has its neighbours as channels.

    The channels of an input follow one another from the lowest slice to the highest; beyond the ends of the image its
    last slice repeats.
    """
    if slices == 1:
        return image
    depth, reach = image.shape[1], slices // 2
    index = torch.arange(depth, device=image.device)
    shifted = [image[:, (index + step).clamp(0, depth - 1)] for step in range(-reach, reach + 1)]
    return torch.stack(shifted, dim=1).flatten(0, 1)


def dimensions_of(settings: Mapping[str, Any]) -> int:
    return 2 if settings["window"][0] == 1 else 3


def probabilities(
    network: nn.Module, image: Tensor, settings: Mapping[str, Any], *, tick: Tick = None, activation: str = "softmax"
) -> Tensor:
    """Probabilities [c, z, y, x] of one network; see `sampled`."""
    return sampled([network], image, settings, tick=tick, activation=activation).mean


def sampled(
    networks: Sequence[nn.Module],
    image: Tensor,
    settings: Mapping[str, Any],
    *,
    activation: str = "softmax",
    measure: str = "",
    tick: Tick = None,
) -> Tally:
    """Answers [c, z, y, x] for a prepared image [inputs, z, y, x], on the networks' device.

    settings: the manifest's `inference`: `window` (z, y, x) voxels, z = 1 for networks in 2-D; `overlap` 0–1; `mirror`:
    axes whose mirror images are averaged; `shifts`: 0–4 one-voxel shifts that are averaged as well, since a network
    whose first layer skips every other voxel sees another image then; `dropout`: passes with dropout on; `slices`:
    neighbouring slices that a network in 2-D sees as channels; `axes` "xyz" where the network wants its spatial axes in
    that order. Windows are blended with a Gaussian; an image smaller than the window is padded by its edge values.
    tick: called before every window, so that long work can be stopped.
    """
    dimensions = dimensions_of(settings)
    turned = settings.get("axes", "zyx") == "xyz"
    image = image.to(device_of(networks[0]))
    tally = Tally(activation, measure)

    def answer(sample: Sample, network: nn.Module, window: Tensor) -> Tensor:
        if tick is not None:
            tick()
        flipped = torch.flip(window, sample.mirror) if sample.mirror else window
        share = activate(_logits(network, flipped, dimensions, turned), activation)
        return torch.flip(share, sample.mirror) if sample.mirror else share

    with torch.inference_mode():
        for sample in samples(networks, settings):
            z, y, x = sample.shift
            moved = pad(image[None], (x, 0, y, 0, z, 0), mode="replicate")[0] if any(sample.shift) else image
            with answering(sample) as network:
                found = sliding_window_inference(
                    with_neighbours(moved, int(settings.get("slices", 1)))[None],
                    roi_size=settings["window"],
                    sw_batch_size=1,
                    predictor=lambda window, sample=sample, network=network: answer(sample, network, window),
                    overlap=settings.get("overlap", 0.5),
                    mode="gaussian",
                    padding_mode="replicate",
                )
            assert isinstance(found, Tensor)
            tally.add(found[0, :, z:, y:, x:])
    return tally


def of_whole_image(
    networks: Sequence[nn.Module],
    image: Tensor,
    settings: Mapping[str, Any],
    *,
    dimensions: int,
    activation: str,
    measure: str = "",
    tick: Tick = None,
) -> Tally:
    """Answers [c] about a prepared image [inputs, z, y, x] as a whole, on the networks' device.

    A network in 3-D sees the image, one in 2-D its middle slice (`pooling` "centre") or every slice, of whose answers
    the mean or the maximum counts ("mean", "max"). `mirror`, `shifts`, `dropout`, `slices` and `axes` as in `sampled`.
    """
    turned = settings.get("axes", "zyx") == "xyz"
    pooling = settings.get("pooling", "centre")
    image = image.to(device_of(networks[0]))
    depth, rows, columns = image.shape[1:]
    tally = Tally(activation, measure)
    with torch.inference_mode():
        for sample in samples(networks, settings):
            z, y, x = sample.shift
            moved = pad(image[None], (x, 0, y, 0, z, 0), mode="replicate")[0, :, :depth, :rows, :columns]
            moved = torch.flip(moved, sample.mirror) if sample.mirror else moved
            if dimensions == 3:
                batches = [moved[None]]
            else:
                stack = with_neighbours(moved, int(settings.get("slices", 1))).transpose(0, 1)  # [z, c, y, x]
                middle = (depth - 1) // 2
                batches = list(
                    (stack[middle : middle + 1] if pooling == "centre" else stack).split(1)
                )  # programs know one batch size
            shares = []
            with answering(sample) as network:
                for batch in batches:
                    if tick is not None:
                        tick()
                    shares.append(activate(network(turn(batch) if turned else batch), activation))
            every = torch.cat(shares)
            tally.add(every.amax(dim=0) if pooling == "max" else every.mean(dim=0))
    return tally


def _logits(network: nn.Module, window: Tensor, dimensions: int, turned: bool) -> Tensor:
    """Logits [b, c, z, y, x] of a window of that order of axes."""
    if not turned:
        return slicewise(network, window, dimensions)
    if dimensions == 3:
        return turn(network(turn(window)))
    across = window.transpose(-1, -2)
    return slicewise(network, across, 2).transpose(-1, -2).contiguous()
