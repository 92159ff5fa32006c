"""Random changes of a batch of training patches, on whatever device the batch is on.

One resampling does rotation, scaling, shift, mirroring and elastic deformation together, so the image is interpolated
once. The generator decides everything: the same state gives the same patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

CONTROL_POINTS = 5


class Augmentation:
    """settings: the section `augmentation` of a configuration (see inference.training.config)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        geometric = ("flip", "rotation", "scale", "shift", "deformation")
        self.moves = any(settings.get(name) for name in geometric)

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """images [b, c, z, y, x] float, labels [b, 1, z, y, x] integer; a generator on the CPU."""
        if self.moves:
            grid = self._grid(images, generator)
            images = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
            labels = grid_sample(
                labels.to(images.dtype), grid, mode="nearest", padding_mode="border", align_corners=False
            ).to(labels.dtype)
        return self._intensity(images, generator), labels

    def _grid(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, size = images.shape[0], images.shape[2:]
        matrix = torch.stack([self._affine(size, generator) for _ in range(batch)])
        grid = affine_grid(matrix, [batch, 1, *size], align_corners=False)
        if self.settings.get("deformation"):
            coarse = torch.randn(batch, 3, *[CONTROL_POINTS] * 3, generator=generator) * self.settings["deformation"]
            smooth = interpolate(coarse, size=size, mode="trilinear", align_corners=True).permute(0, 2, 3, 4, 1)
            grid = grid + smooth * (2 / torch.tensor(size[::-1], dtype=torch.float32))
        return grid.to(images.device, images.dtype)

    def _affine(self, size: torch.Size, generator: torch.Generator) -> Tensor:
        """3×4 in the normalised (x, y, z) coordinates of grid_sample."""
        settings = self.settings
        angles = _between(3, math.radians(settings.get("rotation") or 0), generator)
        cosine, sine = angles.cos().tolist(), angles.sin().tolist()
        about_x = torch.tensor([[1, 0, 0], [0, cosine[0], -sine[0]], [0, sine[0], cosine[0]]])
        about_y = torch.tensor([[cosine[1], 0, sine[1]], [0, 1, 0], [-sine[1], 0, cosine[1]]])
        about_z = torch.tensor([[cosine[2], -sine[2], 0], [sine[2], cosine[2], 0], [0, 0, 1]])
        scale = 1 / (1 + _between(3, settings.get("scale") or 0, generator))
        coins = torch.rand(3, generator=generator)
        for number, axis in enumerate("xyz"):
            if axis in (settings.get("flip") or ()) and coins[number] < 0.5:
                scale[number] = -scale[number]
        extent = torch.tensor([float(n) for n in size[::-1]])
        linear = (about_x @ about_y @ about_z @ torch.diag(scale)) * (extent[None, :] / extent[:, None])
        shift = _between(3, 2 * (settings.get("shift") or 0), generator)
        return torch.cat([linear, shift[:, None]], dim=1)

    def _intensity(self, images: Tensor, generator: torch.Generator) -> Tensor:
        settings, batch = self.settings, images.shape[0]

        def draw(limit: float) -> Tensor:
            return _between(batch, limit, generator).reshape(-1, 1, 1, 1, 1).to(images)

        if settings.get("contrast"):
            images = images * (1 + draw(settings["contrast"]))
        if settings.get("brightness"):
            images = images + draw(settings["brightness"])
        if settings.get("noise"):
            noise = torch.randn(images.shape, generator=generator).to(images)
            images = images + noise * draw(settings["noise"]).abs()
        if settings.get("gamma"):
            low = images.amin((1, 2, 3, 4), keepdim=True)
            span = images.amax((1, 2, 3, 4), keepdim=True) - low + 1e-6
            images = ((images - low) / span) ** draw(settings["gamma"]).exp() * span + low
        return images


def _between(count: int, limit: float, generator: torch.Generator) -> Tensor:
    """`count` numbers from -limit to limit."""
    return (torch.rand(count, generator=generator) * 2 - 1) * limit
