"""DarkCovidNet (Ozturk et al., Comput Biol Med 2020): 1,164,434 parameters for two classes, 1,167,586 for three.

The published network pads its 1×1 convolutions by one pixel, so 256×256 pixels end as 13×13 and not as 8×8; so does
this one.
"""

from __future__ import annotations

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def triple(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs), convolution(outputs, outputs // 2, 1), convolution(outputs // 2, outputs)
    )


class DarkCovidNet(nn.Module):
    """[b, inputs, size, size] to logits [b, outputs]; `size` is fixed by the last layer (256 in the paper)."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(inputs, 8), nn.MaxPool2d(2), convolution(8, 16), nn.MaxPool2d(2)]
        for width in (32, 64, 128):
            layers += [triple(width // 2, width), nn.MaxPool2d(2)]
        layers += [
            triple(128, 256),
            convolution(256, 128, 1),
            convolution(128, 256),
            nn.Conv2d(256, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
        self.features = nn.Sequential(*layers)
        self.pool = nn.Identity()
        self.classifier = nn.Sequential(nn.Linear(outputs * last_side(size) ** 2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


def last_side(size: int) -> int:
    """Side of the last feature map in pixels: five halvings, each 1×1 convolution adds two."""
    side = size // 4
    for _ in range(3):
        side = (side + 2) // 2
    return side + 4
