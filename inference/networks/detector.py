"""A one-stage detector without anchors for images and volumes (after FCOS, Tian et al., arXiv:1904.01355).

Every cell of three feature maps says for each class how probable it lies within a lesion, how far the sides of the
lesion's box are, and how central the cell is. Boxes are [first corner, last corner] in pixels, in the order of the
image's axes: (y1, x1, y2, x2), or (z1, y1, x1, z2, y2, x2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data.box_utils import non_max_suppression
from monai.networks.nets import ResNet
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, softplus

STRIDES = (4, 8, 16)
# A level answers for boxes whose longest side (in its strides) lies between these; neighbours overlap.
SIDES = ((0, 8), (4, 8), (4, 1e9))
RARE = 0.01  # probability that the fresh network gives each cell
# An image counts as this many cells with a box at least, or a batch without a lesion would outweigh all others.
FEWEST = 8
SHORTEST = 0.5  # pixels: least distance to a side that is learned, where a box lies beside the centre of its cell


@dataclass(frozen=True)
class Finding:
    """boxes [n, 2·dimensions] in pixels, scores [n] from high to low, labels [n] from 0."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module):
    """[b, inputs, *image], sides multiples of 16, to a list of maps [b, outputs + 2·dimensions + 1, *image / stride].

    The channels of a map: logits of the classes, distances to the near and to the far sides in pixels, centrality.
    """

    def __init__(
        self, dimensions: int, inputs: int, outputs: int, *, channels: Sequence[int], pyramid: int, depth: int
    ) -> None:
        super().__init__()
        self.dimensions, self.outputs = dimensions, outputs
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.backbone = ResNet(
            "basic",
            [2, 2, 2, 2],
            list(channels),
            spatial_dims=dimensions,
            n_input_channels=inputs,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.lateral = nn.ModuleList(convolution(width, pyramid, 1) for width in channels[:3])
        self.smooth = nn.ModuleList(convolution(pyramid, pyramid, 3, padding=1) for _ in channels[:3])
        self.classes = self._tower(convolution, pyramid, depth, outputs)
        self.places = self._tower(convolution, pyramid, depth, 2 * dimensions + 1)
        last: Any = self.classes[-1]
        nn.init.constant_(last.bias, -torch.log(torch.tensor((1 - RARE) / RARE)).item())

    @staticmethod
    def _tower(convolution: Any, width: int, depth: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [
                convolution(width, width, 3, padding=1),
                nn.GroupNorm(min(8, width), width),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers, convolution(width, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        net: Any = self.backbone
        x = net.maxpool(net.act(net.bn1(net.conv1(x))))
        maps = []
        for stage in (net.layer1, net.layer2, net.layer3):
            x = stage(x)
            maps.append(x)
        below: Tensor | None = None
        levels = []
        for lateral, smooth, found in zip(self.lateral[::-1], self.smooth[::-1], maps[::-1], strict=True):  # type: ignore[index]
            y = lateral(found)
            if below is not None:
                y = y + interpolate(below, size=y.shape[2:], mode="nearest")
            below = y
            levels.append(smooth(y))
        answers = []
        for level, stride in zip(levels[::-1], STRIDES, strict=True):
            places = self.places(level)
            sides, centrality = places[:, :-1], places[:, -1:]
            answers.append(torch.cat([self.classes(level), softplus(sides) * stride, centrality], dim=1))
        return answers


def flatten(answers: Sequence[Tensor]) -> Tensor:
    """Maps as [b, cells, channels], level after level."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in answers], dim=1)


def cells(answers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Centre of every cell in pixels [cells, dimensions], and its level [cells]."""
    centres, numbers = [], []
    for number, (level, stride) in enumerate(zip(answers, STRIDES, strict=True)):
        axes = [(torch.arange(n, device=level.device) + 0.5) * stride for n in level.shape[2:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        centres.append(grid)
        numbers.append(torch.full((len(grid),), number, device=level.device))
    return torch.cat(centres), torch.cat(numbers)


def assign(centres: Tensor, levels: Tensor, boxes: Tensor) -> Tensor:
    """For each cell the number of the box that it answers for, the smallest one where several fit; -1 for none.

    A cell answers for a box where its centre lies in the ellipsoid that the box holds, as the corners of a lesion's
    box are not lesion. A box that holds no centre, being smaller than a cell, has the cell nearest to its middle.
    """
    dimensions = centres.shape[1]
    if not len(boxes):
        return torch.full((len(centres),), -1, dtype=torch.long, device=centres.device)
    near, far = boxes[None, :, :dimensions], boxes[None, :, dimensions:]
    strides = torch.tensor(STRIDES, device=boxes.device)[levels][:, None]
    longest = (far - near).amax(-1) / strides
    low = torch.tensor([side[0] for side in SIDES], device=boxes.device)[levels][:, None]
    high = torch.tensor([side[1] for side in SIDES], device=boxes.device)[levels][:, None]
    of_level = (longest >= low) & (longest <= high)
    away = centres[:, None] - (near + far) / 2
    fits = of_level & ((away / ((far - near) / 2).clamp(min=1e-6)).square().sum(-1) <= 1)
    nearest = torch.where(of_level, away.square().sum(-1), torch.inf).argmin(dim=0)
    alone = ~fits.any(dim=0)
    fits[nearest[alone], alone.nonzero()[:, 0]] = True
    size = (far - near).prod(-1).expand(len(centres), -1)
    best = torch.where(fits, size, torch.inf).min(dim=1)
    return torch.where(best.values.isfinite(), best.indices, -1)


def loss(answers: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Focal loss of the classes, 1 - IoU of the boxes, cross-entropy of the centrality, per cell that has a box."""
    found = flatten(answers)
    centres, levels = cells(answers)
    dimensions = centres.shape[1]
    outputs = found.shape[2] - 2 * dimensions - 1
    total, positives = found.sum() * 0, 0
    for answer, truth, classes in zip(found, boxes, labels, strict=True):
        owner = assign(centres, levels, truth)
        has = owner >= 0
        wanted = torch.zeros_like(answer[:, :outputs])
        wanted[has, classes[owner[has]]] = 1
        total = total + focal(answer[:, :outputs], wanted)
        positives += max(FEWEST, int(has.sum()))
        if not has.any():
            continue
        mine = truth[owner[has]]
        sides = torch.cat([centres[has] - mine[:, :dimensions], mine[:, dimensions:] - centres[has]], dim=1)
        sides = sides.clamp(min=SHORTEST)
        near, far = sides[:, :dimensions], sides[:, dimensions:]
        central = (torch.minimum(near, far) / torch.maximum(near, far)).prod(1) ** (1 / dimensions)
        guessed = answer[has, outputs:-1]
        overlap = torch.minimum(guessed, sides)
        shared = (overlap[:, :dimensions] + overlap[:, dimensions:]).prod(1)
        volumes = [(side[:, :dimensions] + side[:, dimensions:]).prod(1) for side in (guessed, sides)]
        total = total + (1 - shared / (volumes[0] + volumes[1] - shared)).sum()
        total = total + binary_cross_entropy_with_logits(answer[has, -1], central, reduction="sum")
    return total / positives


def focal(logits: Tensor, wanted: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the focal losses (Lin et al., arXiv:1708.02002) of independent classes."""
    plain = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probability = torch.sigmoid(logits)
    missed = torch.where(wanted > 0, 1 - probability, probability)
    weight = torch.where(wanted > 0, alpha, 1 - alpha)
    return (weight * missed**gamma * plain).sum()


def decode(
    answers: Sequence[Tensor], size: Sequence[int], *, threshold: float = 0.05, overlap: float = 0.5, most: int = 100
) -> list[Finding]:
    """Boxes of each image of the batch, without those that overlap a more probable one of their class."""
    found = flatten(answers)
    centres, _ = cells(answers)
    dimensions = centres.shape[1]
    outputs = found.shape[2] - 2 * dimensions - 1
    limit = torch.tensor([*size, *size], device=found.device, dtype=found.dtype)
    findings = []
    for answer in found:
        central = torch.sigmoid(answer[:, -1:])
        scores = (torch.sigmoid(answer[:, :outputs]) * central).sqrt()
        cell, label = torch.nonzero(scores > threshold, as_tuple=True)
        score = scores[cell, label]
        order = score.argsort(descending=True)[:1000]
        cell, label, score = cell[order], label[order], score[order]
        sides = answer[cell, outputs:-1]
        boxes = torch.cat([centres[cell] - sides[:, :dimensions], centres[cell] + sides[:, dimensions:]], dim=1)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        # Classes are moved apart, so that boxes of two classes never meet.
        apart = boxes + (label * (float(max(size)) + 1))[:, None]
        kept = torch.as_tensor(non_max_suppression(apart, score, overlap), dtype=torch.long)[:most]
        findings.append(Finding(boxes[kept], score[kept], label[kept]))
    return findings
