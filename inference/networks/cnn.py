"""A plain convolutional classifier for small sets of images or volumes (after Zunair et al., arXiv:2007.13224).

In 3-D with one input, one output and the default widths it has the 1,351,873 parameters of the published network. Its
convolutions are padded, so small volumes do not vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class PlainCNN(nn.Module):
    """[b, inputs, (z,) y, x], each axis at least 2 ** len(channels), to logits [b, outputs]."""

    def __init__(
        self, dimensions: int, inputs: int, outputs: int, *, channels: Sequence[int], hidden: int, dropout: float
    ) -> None:
        super().__init__()
        convolution, pool, norm, average = (
            (nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
            if dimensions == 2
            else (nn.Conv3d, nn.MaxPool3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)
        )
        layers: list[nn.Module] = []
        for width in channels:
            layers += [convolution(inputs, width, 3, padding=1), nn.ReLU(inplace=True), pool(2), norm(width)]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.pool = average(1)
        self.classifier = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))
