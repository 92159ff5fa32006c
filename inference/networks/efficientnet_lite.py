"""EfficientNet-lite0: EfficientNet-B0 (Tan and Le, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6, and
with stem and head of fixed width. 4,652,008 parameters for 1000 classes. Input values are (x - 127) / 128 of 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# Repeats, kernel, stride of the first, expansion, width.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
DROPPED_PATHS = 0.2  # of the last block; less before


class SameConv2d(nn.Conv2d):
    """Padded so that the output has ceil(size / stride) pixels; an odd pixel goes to the lower right."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return super().forward(pad(x, sides) if any(sides) else x)


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int, dropped: float) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = None if expansion == 1 else SameConv2d(inputs, width, 1, bias=False)
        self.expand_norm = None if expansion == 1 else norm(width)
        self.depthwise = SameConv2d(inputs * expansion, width, kernel, stride=stride, groups=width, bias=False)
        self.depthwise_norm = norm(width)
        self.project = SameConv2d(width, outputs, 1, bias=False)
        self.project_norm = norm(outputs)
        self.skips = stride == 1 and inputs == outputs
        self.dropped = dropped

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = nn.functional.relu6(self.expand_norm(self.expand(y)))
        y = nn.functional.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        if not self.skips:
            return y
        if self.training and self.dropped:
            kept = 1 - self.dropped
            y = y * torch.bernoulli(torch.full((len(y), 1, 1, 1), kept, device=y.device, dtype=y.dtype)) / kept
        return x + y


class EfficientNetLite0(nn.Module):
    """[b, inputs, y, x] (224 in training) to logits [b, outputs].

    pooling: what the last layer reads. "top": the mean of the last feature map, as published, 1280 numbers. "stages":
    the means of the feature maps after the stem, each stage and the top, 2096 numbers, so that texture of early layers
    counts as well.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float = 0.2, pooling: str = "top") -> None:
        super().__init__()
        self.pooling = pooling
        self.stem, self.stem_norm = SameConv2d(inputs, 32, 3, stride=2, bias=False), norm(32)
        blocks: list[nn.Module] = []
        total = sum(stage[0] for stage in STAGES)
        width, read = 32, 32
        self.ends: list[int] = []  # the last block of each stage
        for repeats, kernel, stride, expansion, wanted in STAGES:
            for number in range(repeats):
                blocks.append(
                    Block(
                        width,
                        wanted,
                        kernel=kernel,
                        stride=1 if number else stride,
                        expansion=expansion,
                        dropped=DROPPED_PATHS * len(blocks) / total,
                    )
                )
                width = wanted
            self.ends.append(len(blocks) - 1)
            read += width
        self.blocks = nn.Sequential(*blocks)
        self.top, self.top_norm = SameConv2d(width, 1280, 1, bias=False), norm(1280)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(1280 + (read if pooling == "stages" else 0), outputs)
        )

    def features(self, x: Tensor) -> Tensor:
        """The last feature map [b, 1280, y / 32, x / 32]."""
        return self._maps(x)[-1]

    def forward(self, x: Tensor) -> Tensor:
        maps = self._maps(x) if self.pooling == "stages" else [self.features(x)]
        return self.classifier(torch.cat([self.pool(found).flatten(1) for found in maps], dim=1))

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps after the stem, the stages and the top."""
        found = [nn.functional.relu6(self.stem_norm(self.stem(x)))]
        x = found[0]
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                found.append(x)
        return [*found, nn.functional.relu6(self.top_norm(self.top(x)))]
