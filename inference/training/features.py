"""Features of a frozen network, kept on disk: the same network and image never have to be computed twice."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inference.networks import adaptation, weights

AT_ONCE = 16


def extract(
    network: nn.Module, images: Sequence[Tensor], folder: Path, *, tick: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """What the network's last layer reads, float32 [images, features]; the network stays as it is.

    images: prepared, each as the network takes it without the batch axis. folder: where features are kept, in one file
    for each backbone, by the SHA-256 of the image. tick: called with the number of images done.
    """
    network.eval()
    head, _ = adaptation.head_of(network)
    path = folder / f"{weights.digest(network, without=head)}.safetensors"
    kept = _read(path)
    keys = [hashlib.sha256(image.numpy().tobytes() + repr(tuple(image.shape)).encode()).hexdigest() for image in images]
    missing = [number for number, key in enumerate(keys) if key not in kept]
    for start in range(0, len(missing), AT_ONCE):
        tick(len(images) - len(missing) + start)
        part = missing[start : start + AT_ONCE]
        found = adaptation.extract(network, torch.stack([images[number] for number in part]))
        for number, row in zip(part, found, strict=True):
            kept[keys[number]] = row.clone()
    if missing:
        _write(path, kept)
    return np.stack([kept[key].numpy() for key in keys])


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):  # a damaged file is made anew
        return {}


def _write(path: Path, kept: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    os.close(descriptor)
    save_file(kept, name)
    os.replace(name, path)
