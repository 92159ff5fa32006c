"""A U-Net that configures itself from the training images, by the rules of nnU-Net (Isensee et al., Nat Methods 2021).

Spacing: the median of the training images; where an image's slices are three times as far apart as its pixels, the
tenth percentile on that axis. Patch: the median size at that spacing, made smaller until network and batch fit into
memory. Halving: an axis is halved while it keeps four cells and is not coarser than twice the finest; kernels stay flat
on an axis that is still coarser than that. Batch: from two, as many as fit, at most 5 % of all voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from inference.networks.memory import training_bytes

BASE_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
SMALLEST_MAP = 4
ANISOTROPY = 3.0
STEP = 2.0  # an axis this much coarser than the finest is not halved, and its kernels are flat


@dataclass(frozen=True)
class Fingerprint:
    """shapes: voxels (z, y, x) of the training images; spacings: mm (z, y, x)."""

    shapes: Sequence[Sequence[int]]
    spacings: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Plan:
    spacing: list[float]
    patch: list[int]
    batch_size: int
    parameters: dict[str, Any]


def target_spacing(fingerprint: Fingerprint) -> np.ndarray:
    """(z, y, x) mm."""
    spacings = np.asarray(fingerprint.spacings, dtype=float)
    spacing = np.median(spacings, axis=0)
    worst = int(spacing.argmax())
    others = np.delete(spacing, worst)
    if spacing[worst] > ANISOTROPY * others.max():
        spacing[worst] = max(np.percentile(spacings[:, worst], 10), others.max())
    return spacing


def topology(patch: Sequence[int], spacing: Sequence[float]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Kernels and strides of each stage, and the patch made a multiple of what the strides need."""
    size, now = [int(n) for n in patch], np.asarray(spacing, dtype=float)
    kernels: list[list[int]] = []
    strides: list[list[int]] = [[1] * len(size)]
    while True:
        before = kernels[-1] if kernels else [1] * len(size)
        kernels.append([1 if k == 1 and have / now.min() > STEP else 3 for k, have in zip(before, now, strict=True)])
        halved = [
            2 if n >= 2 * SMALLEST_MAP and have / now.min() <= STEP else 1 for n, have in zip(size, now, strict=True)
        ]
        if set(halved) == {1}:
            break
        strides.append(halved)
        now = now * np.asarray(halved)
        size = [math.ceil(n / stride) for n, stride in zip(size, halved, strict=True)]
    needed = np.prod(strides, axis=0)
    rounded = [int(max(need, math.ceil(n / need) * need)) for n, need in zip(patch, needed, strict=True)]
    return kernels, strides, rounded


def plan(fingerprint: Fingerprint, *, outputs: int, bytes_available: int, features: int = BASE_FEATURES) -> Plan:
    """Spacing, patch, batch and network for these images; 2-D where they have one slice."""
    spacing = target_spacing(fingerprint)
    shapes = np.asarray(fingerprint.shapes, dtype=float) * np.asarray(fingerprint.spacings) / spacing
    median = np.maximum(1, np.round(np.median(shapes, axis=0))).astype(int)
    flat = median[0] == 1
    axes = slice(1, 3) if flat else slice(0, 3)
    size, steps = median[axes].astype(float), spacing[axes]
    voxels = float(np.prod(shapes, axis=1).sum())
    while True:
        kernels, strides, patch = topology([int(n) for n in size], steps.tolist())
        parameters = {"kernels": kernels, "strides": strides, "features": features, "residual": False}
        needed = _bytes(parameters, patch, outputs, 2)
        if needed <= bytes_available or max(patch) <= 2 * SMALLEST_MAP:
            break
        size[int((size * steps).argmax())] *= 0.9
    batch = 2
    while (
        _bytes(parameters, patch, outputs, batch + 1) <= bytes_available
        and (batch + 1) * math.prod(patch) <= 0.05 * voxels
        and batch < 64
    ):
        batch += 1
    return Plan([float(n) for n in spacing], [1, *patch] if flat else patch, batch, parameters)


def build(dimensions: int, inputs: int, outputs: int, parameters: dict[str, Any]) -> nn.Module:
    from monai.networks.nets import DynUNet

    strides = parameters["strides"]
    widths = [min(MOST_FEATURES[dimensions], parameters["features"] * 2**stage) for stage in range(len(strides))]
    return DynUNet(
        spatial_dims=dimensions,
        in_channels=inputs,
        out_channels=outputs,
        kernel_size=parameters["kernels"],
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=widths,
        res_block=parameters["residual"],
    )


def _bytes(parameters: dict[str, Any], patch: Sequence[int], outputs: int, batch: int) -> int:
    with torch.device("meta"):  # nothing is computed or allocated
        network = build(len(patch), 1, outputs, parameters)
    return training_bytes(network, batch=batch, in_channels=1, patch=patch)
