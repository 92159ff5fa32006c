"""GoogLeNet (Szegedy et al., arXiv:1409.4842): 6,998,552 parameters for 1000 classes, without its side classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Width of the 1×1 branch, of the 3×3 branch (reduced, full), of the 5×5 branch (reduced, full), of the pooled one.
INCEPTIONS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
POOLED_BEFORE = (2, 7)  # inception modules 4a and 5a


def convolution(inputs: int, outputs: int, kernel: int, *, batch_norm: bool, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class Inception(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...], batch_norm: bool) -> None:
        super().__init__()
        one, reduced3, three, reduced5, five, pooled = widths
        self.one = convolution(inputs, one, 1, batch_norm=batch_norm)
        self.three = nn.Sequential(
            convolution(inputs, reduced3, 1, batch_norm=batch_norm),
            convolution(reduced3, three, 3, batch_norm=batch_norm),
        )
        self.five = nn.Sequential(
            convolution(inputs, reduced5, 1, batch_norm=batch_norm),
            convolution(reduced5, five, 5, batch_norm=batch_norm),
        )
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), convolution(inputs, pooled, 1, batch_norm=batch_norm)
        )
        self.width = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class GoogLeNet(nn.Module):
    """[b, inputs, y, x] (224 in the paper) to logits [b, outputs].

    batch_norm: normalises after every convolution in place of local response normalisation, which trains from scratch
    without side classifiers.
    """

    def __init__(self, inputs: int, outputs: int, *, batch_norm: bool = False, dropout: float = 0.4) -> None:
        super().__init__()
        response = [] if batch_norm else [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)]
        layers: list[nn.Module] = [
            convolution(inputs, 64, 7, stride=2, batch_norm=batch_norm),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            *response,
            convolution(64, 64, 1, batch_norm=batch_norm),
            convolution(64, 192, 3, batch_norm=batch_norm),
            *response,
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        ]
        width = 192
        for number, widths in enumerate(INCEPTIONS):
            if number in POOLED_BEFORE:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            module = Inception(width, widths, batch_norm)
            layers.append(module)
            width = module.width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))
