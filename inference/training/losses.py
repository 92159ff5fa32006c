"""Losses of a classifier: logits [b, classes] and class numbers [b], with a weight for each class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as plain_cross_entropy
from torch.nn.functional import log_softmax, one_hot

GAMMA = 2.0
MISSED, FALSE = 0.7, 0.3  # weights of false negatives and false positives in the Tversky index


def class_weights(numbers: Tensor, classes: int) -> Tensor:
    """n / (classes · n of the class), so that every class counts as much; 0 for a class without a case."""
    counts = torch.bincount(numbers, minlength=classes).float()
    return torch.where(counts > 0, len(numbers) / (classes * counts.clamp(min=1)), 0.0)


def cross_entropy(logits: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    return plain_cross_entropy(logits, numbers, weight=weights)


def focal(logits: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Lin et al., arXiv:1708.02002: what is right already counts little; gamma 2."""
    chosen = log_softmax(logits, dim=1).gather(1, numbers[:, None])[:, 0]
    weight = weights[numbers]
    return -(weight * (1 - chosen.exp()) ** GAMMA * chosen).sum() / weight.sum()


def dice(logits: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """1 - soft Dice of each class over the batch, weighted."""
    return _overlap(logits, numbers, weights, 0.5, 0.5)


def tversky(logits: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Salehi et al., arXiv:1706.05721: like Dice, with missed cases dearer than false ones."""
    return _overlap(logits, numbers, weights, MISSED, FALSE)


def _overlap(logits: Tensor, numbers: Tensor, weights: Tensor, missed: float, false: float) -> Tensor:
    share, truth = torch.softmax(logits, dim=1), one_hot(numbers, logits.shape[1]).to(logits.dtype)
    hit = (share * truth).sum(0)
    index = hit / (hit + missed * ((1 - share) * truth).sum(0) + false * (share * (1 - truth)).sum(0)).clamp(min=1e-6)
    there = weights * (truth.sum(0) > 0)
    return ((1 - index) * there).sum() / there.sum().clamp(min=1e-6)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "tversky": tversky,
}
