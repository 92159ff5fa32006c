"""The table of networks, the sliding window and the memory estimate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inference.errors import NetworkError
from inference.networks import table
from inference.networks.memory import training_bytes
from inference.networks.sliding_window import probabilities


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unet", {"channels": [4, 8, 16], "strides": [2, 2], "residual_units": 2}),
        ("unet", {"channels": [4, 8], "strides": [2], "residual_units": 0, "norm": "batch", "dropout": 0.1}),
        ("segresnet", {"filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
        ("swin_unetr", {"features": 12}),
        ("segresnet", {"filters": 8, "blocks_down": [1, 2], "blocks_up": [1], "norm": "batch"}),
    ],
)
def test_logits_have_the_shape_of_the_image(name, parameters, dimensions):
    network = table.build(name, dimensions=dimensions, in_channels=1, out_channels=3, parameters=parameters)
    size = [2 * table.divisor(name, parameters)] * dimensions
    assert network(torch.zeros(2, 1, *size)).shape == (2, 3, *size)


def test_residual_unet_has_the_published_number_of_parameters():
    """Kerfoot et al. 2018 (the network that MONAI's Spleen tutorial trains): 4,808,917 parameters."""
    network = table.build(
        "unet",
        dimensions=3,
        in_channels=1,
        out_channels=2,
        parameters={"channels": [16, 32, 64, 128, 256], "strides": [2, 2, 2, 2], "norm": "batch"},
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_808_917


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("resnet", {}, "no network 'resnet'. Choose from: unet"),
        ("unet", {"depth": 3}, "does not take 'depth'. It takes: channels"),
        ("unet", {"channels": [8, 16]}, "strides must have one number less"),
        ("unet", {"norm": "layer"}, "one of instance, batch"),
        ("unet", {"channels": "many"}, "list of whole numbers"),
        ("segresnet", {"filters": 12}, "multiple of 8"),
    ],
)
def test_wrong_parameters(name, parameters, words):
    with pytest.raises(NetworkError, match=words):
        table.check(name, parameters)


class Pointwise(nn.Module):
    """Logits that depend on the voxel alone: windows must not be seen in the result."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), self.weight * x], dim=1)


SETTINGS = {"window": [8, 8, 8], "overlap": 0.5}


@pytest.mark.parametrize("size", [(9, 14, 11), (4, 4, 4), (16, 8, 20)])
@pytest.mark.parametrize(("mirror", "shifts"), [([], 0), (["x", "z"], 0), ([], 4)])
def test_overlapping_windows_reproduce_a_pointwise_network(size, mirror, shifts):
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    found = probabilities(Pointwise(), image, SETTINGS | {"mirror": mirror, "shifts": shifts})
    assert found.shape == (2, *size)
    assert torch.allclose(found[1], torch.sigmoid(2 * image[0]), atol=1e-5)


def test_long_work_can_be_stopped_between_windows():
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        probabilities(Pointwise(), torch.zeros(1, 40, 8, 8), {"window": [8, 8, 8]}, tick=tick)
    assert calls == 3


def test_memory_estimate_grows_with_batch_and_patch_and_is_of_the_right_size():
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())
    one = training_bytes(network, batch=1, in_channels=1, patch=[8, 8, 8])
    weights = 4 * 27 + 4
    activations = 2 * 4 * 8**3  # the outputs of both layers
    assert 4 * (weights + activations) <= one <= 3 * 4 * (5 * weights + activations)
    assert training_bytes(network, batch=4, in_channels=1, patch=[8, 8, 8]) > 3 * (one - 4 * 5 * weights)
    assert next(network.parameters()).device.type == "cpu"
