"""How much memory training and inference will need, before they start."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.networks import footprint
from inference.networks.footprint import FLOAT

LIBRARIES = 100_000_000  # bytes that the libraries of torch take for their own buffers, as measured on CPUs


def training_bytes(network: nn.Module, *, batch: int, in_channels: int, patch: Sequence[int]) -> int:
    """What a training step on `batch` patches takes at most, see `footprint.training_bytes`."""
    weights = sum(parameter.numel() for parameter in network.parameters())
    return footprint.training_bytes(weights, activations(network, batch=batch, in_channels=in_channels, patch=patch))


def activations(network: nn.Module, *, batch: int, in_channels: int, patch: Sequence[int]) -> int:
    """Elements of the outputs of all leaves of the network in training.

    The pass is made on torch's meta device, so nothing is computed or allocated.
    """
    model = without_weights(network).train()
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
    return elements


def without_weights(network: nn.Module) -> nn.Module:
    """A copy on the meta device; the weights themselves are never copied."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, memo).to("meta")


class _Living(TorchDispatchMode):
    """Notes how many bytes of tensors live at a time, and the most of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def forward_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """The most bytes that live at a time in one forward pass without gradients of an input of `shape`, float32.

    The pass is made on torch's meta device, so nothing is computed or allocated. What libraries take beside it for a
    convolution is not known; the largest living tensor is added for it.
    """
    model = without_weights(network).eval()
    living = _Living()
    largest = 0

    def look(_: nn.Module, __: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * FLOAT)

    for module in model.modules():
        module.register_forward_hook(look)
    with torch.inference_mode(False), torch.no_grad(), living:
        model(torch.empty(tuple(shape), device="meta"))
    return living.most + largest


@dataclass(frozen=True)
class Image:
    """What an image and what is said about it take. voxels: of the prepared image; original: of the image as it is;
    inputs: channels; classes: channels of the answer, the background among them."""

    voxels: int
    original: int
    inputs: int
    classes: int
    slices: int = 1
    samples: int = 1
    uncertainty: bool = False

    @property
    def sliding(self) -> int:
        """While windows are answered: the image, the blended answer, its weights, and the sum of earlier answers."""
        seen = self.inputs * (1 + (self.slices if self.slices > 1 else 0))
        answers = self.classes * (2 if self.samples > 1 else 1) + (2 * self.classes if self.uncertainty else 0)
        return FLOAT * self.voxels * (seen + answers + 1)

    @property
    def judging(self) -> int:
        """Afterwards: the sum, the mean of several answers, the probabilities, and what uncertainty is found by."""
        arrays = 5 if self.uncertainty else 3 if self.samples > 1 else 2
        return FLOAT * self.voxels * (self.inputs + self.classes * arrays)

    @property
    def placing(self) -> int:
        """The answer on the grid of the original: probabilities, and for one class at a time its share and the best."""
        return FLOAT * (self.voxels * (self.inputs + self.classes) + 4 * self.original)

    @property
    def held(self) -> int:
        """All the time: the image as it is, as it was prepared, and the channels as one array."""
        return FLOAT * self.inputs * (self.original + self.voxels)


def inference_bytes(image: Image, forward: int) -> int:
    """The most bytes that a prediction takes beside the weights; `forward` is what one window takes in the network."""
    return LIBRARIES + image.held + max(image.sliding + forward, image.judging, image.placing)
