"""Several answers of one model to one image: members of an ensemble, mirror images, shifts, dropout left on.

Their mean is the prediction, their disagreement its uncertainty. Averages are taken of probabilities, never of logits.
Entropy is in bits. Mutual information, the entropy of the mean less the mean of the entropies, is the part that the
answers disagree about (Houlsby et al., arXiv:1112.5745; Gal and Ghahramani, arXiv:1506.02142).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

AXES = {"z": -3, "y": -2, "x": -1}
# One-voxel shifts (z, y, x), in the order in which they are added.
SHIFTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))
ENTROPY, MUTUAL_INFORMATION, VARIANCE = "entropy", "mutual_information", "variance"
UNITS = {ENTROPY: "bit", MUTUAL_INFORMATION: "bit", VARIANCE: "1"}


@dataclass(frozen=True)
class Sample:
    """How one answer is made. mirror: axes (-3, -2, -1) that are flipped and flipped back; shift: voxels (z, y, x);
    seed: of the dropout, None where it is off."""

    network: nn.Module
    mirror: tuple[int, ...] = ()
    shift: tuple[int, int, int] = (0, 0, 0)
    seed: int | None = None


def samples(networks: Sequence[nn.Module], settings: Mapping[str, Any]) -> list[Sample]:
    """Every combination of member, mirror image and shift, and of dropout passes, that a manifest's `inference` asks
    for."""
    mirrors: list[tuple[int, ...]] = [()]
    for axis in settings.get("mirror", ()):
        mirrors += [(*axes, AXES[axis]) for axes in mirrors]
    shifts = SHIFTS[: 1 + int(settings.get("shifts", 0))]
    passes = int(settings.get("dropout", 0))
    seeds: Sequence[int | None] = range(passes) if passes else (None,)
    return [
        Sample(network, mirror, shift, seed)
        for network in networks
        for shift in shifts
        for mirror in mirrors
        for seed in seeds
    ]


def method(members: int, settings: Mapping[str, Any]) -> str:
    """In words, what the mean is taken of: "3 members × 4 mirror images"."""
    parts = [
        (members, "members"),
        (2 ** len(settings.get("mirror", ())), "mirror images"),
        (1 + int(settings.get("shifts", 0)), "shifts"),
        (int(settings.get("dropout", 0)), "dropout passes"),
    ]
    return " × ".join(f"{count} {what}" for count, what in parts if count > 1) or "one prediction"


def count(members: int, settings: Mapping[str, Any]) -> int:
    """How many answers the mean is taken of."""
    mirrors, shifts = 2 ** len(settings.get("mirror", ())), 1 + int(settings.get("shifts", 0))
    return members * mirrors * shifts * max(1, int(settings.get("dropout", 0)))


def activate(logits: Tensor, activation: str) -> Tensor:
    """softmax or sigmoid over axis 1, or the numbers as they are (linear); float32."""
    if activation == "softmax":
        return torch.softmax(logits.float(), dim=1)
    return torch.sigmoid(logits.float()) if activation == "sigmoid" else logits.float()


def dropouts(network: nn.Module) -> list[nn.Module]:
    """The layers that drop something at random."""
    kinds = (nn.modules.dropout._DropoutNd, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return [module for module in network.modules() if isinstance(module, kinds) and getattr(module, "p", 0) > 0]


@contextmanager
def answering(sample: Sample) -> Iterator[nn.Module]:
    """The sample's network, its dropout on and seeded where the sample has a seed."""
    if sample.seed is None:
        yield sample.network
        return
    layers = dropouts(sample.network)
    devices = sorted({value.device.index or 0 for value in sample.network.parameters() if value.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sample.seed)
        try:
            for layer in layers:
                layer.train()
            yield sample.network
        finally:
            for layer in layers:
                layer.eval()


def entropy(shares: Tensor, activation: str) -> Tensor:
    """Bits over axis 0: of the classes (softmax), or the mean of each label's own (sigmoid)."""
    if activation == "softmax":
        return -torch.xlogy(shares, shares).sum(dim=0) / torch.log(torch.tensor(2.0))
    both = torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares)
    return -both.mean(dim=0) / torch.log(torch.tensor(2.0))


class Tally:
    """The mean of answers [c, …] and what their measure of uncertainty needs, without keeping them."""

    def __init__(self, activation: str, measure: str = "") -> None:
        self.activation, self.measure = activation, measure
        self.count = 0
        self._sum: Tensor | None = None
        self._first: Tensor | None = None
        self._squares: Tensor | None = None
        self._entropies: Tensor | None = None

    def add(self, share: Tensor) -> None:
        self.count += 1
        self._sum = share if self._sum is None else self._sum + share  # nothing is added in place
        if self.measure == VARIANCE:
            # About the first answer, so that equal answers have no variance at all.
            self._first = share if self._first is None else self._first
            square = (share - self._first) ** 2
            self._squares = square if self._squares is None else self._squares + square
        if self.measure == MUTUAL_INFORMATION:
            own = entropy(share, self.activation)
            self._entropies = own if self._entropies is None else self._entropies + own

    @property
    def mean(self) -> Tensor:
        assert self._sum is not None
        mean = self._sum if self.count == 1 else self._sum / self.count
        return mean if self.activation == "linear" else mean.clamp(0, 1)

    def variance(self) -> Tensor:
        """Of each channel, over the answers; [c, …]."""
        assert self._squares is not None
        assert self._first is not None
        return (self._squares / self.count - (self.mean - self._first) ** 2).clamp_min(0)

    def uncertainty(self) -> Tensor | None:
        """[…]: the measure, never below 0; variance is the mean over the channels. None where none was asked for."""
        if not self.measure:
            return None
        if self.measure == VARIANCE:
            return self.variance().mean(dim=0)
        found = entropy(self.mean, self.activation)
        if self._entropies is not None:
            found = found - self._entropies / self.count
        return found.clamp_min(0)
