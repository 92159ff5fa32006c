"""What a prediction is said to take beforehand, and what it takes: the kernel's own count of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from inference.networks import memory

# The peak of the resident set while a prediction runs, less what the process held before: both by /proc.
MEASURE = """
import math, sys
import numpy as np, psutil, torch
from monai.networks.nets import DynUNet, UNet
from inference.networks import memory
from inference.networks.sliding_window import sampled
kind, size, image, classes = sys.argv[1], *map(eval, sys.argv[2:])
torch.set_num_threads(2)
if kind == "unet":
    network = UNet(3, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)
else:
    network = DynUNet(3, 1, classes, [3] * 3, [1, 2, 2], [2, 2], filters=[16, 32, 64])
network = network.eval().to(memory_format=torch.channels_last_3d)
window = [size] * 3
forward = memory.forward_bytes(network, (1, 1, *window))
with torch.inference_mode():
    network(torch.zeros(1, 1, 32, 32, 32))
array = torch.ones(1, *image)
before = psutil.Process().memory_info().rss
open("/proc/self/clear_refs", "w").write("5")
sampled([network], array, {"window": window, "overlap": 0.25}).mean.numpy()
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
told = memory.Image(voxels=math.prod(image), original=math.prod(image), inputs=1, classes=classes)
print((memory.inference_bytes(told, forward) - told.held) / (peak - before))
"""


@pytest.mark.parametrize(
    ("kind", "window", "image", "classes"),
    [("unet", 48, (96, 224, 224), 8), ("dynunet", 64, (96, 128, 128), 14)],
)
def test_the_estimate_is_near_what_the_kernel_counts(kind, window, image, classes):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(window), str(image), str(classes)],
        capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    assert 0.75 < float(done.stdout) < 1.6


def test_a_chain_of_layers_takes_two_neighbours_at_a_time_and_a_skip_what_it_skips():
    """Counted by hand: each layer keeps [1, 8, 16, 16, 16] float32, 131,072 bytes; its input may go when it is made."""
    one = 8 * 16**3 * 4
    shape = (1, 8, 16, 16, 16)
    layers = [nn.Conv3d(8, 8, 3, padding=1) for _ in range(5)]
    assert memory.forward_bytes(nn.Sequential(*layers), shape) == 2 * one + one + one  # the caller holds the input

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x = self.layers[0](x)
            for layer in self.layers[1:]:
                x = layer(x)
            return x + first

    assert memory.forward_bytes(Skip(), shape) == memory.forward_bytes(nn.Sequential(*layers), shape) + one


def test_weights_are_neither_copied_nor_changed():
    network = UNet(3, 1, 2, channels=(8, 16), strides=(2,))
    copy = memory.without_weights(network)
    assert all(parameter.is_meta for parameter in copy.parameters())
    assert not any(parameter.is_meta for parameter in network.parameters())


def test_what_grows_with_what():
    def need(**changed: int) -> int:
        given = {"voxels": 10**7, "original": 10**7, "inputs": 1, "classes": 3} | changed
        return memory.inference_bytes(memory.Image(**given), 10**8)

    # Of many classes two arrays of probabilities at the end are the most; of few the answer on its own grid.
    assert need(classes=14) - need(classes=10) == 4 * 10**7 * 2 * 4
    assert need(classes=10) > need(classes=3)
    assert need(original=2 * 10**7) > need()
    assert need(samples=4, classes=1) >= need(classes=1)
    assert need(uncertainty=True) > need()
