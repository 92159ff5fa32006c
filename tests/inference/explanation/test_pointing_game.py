"""The pointing game (Zhang et al., arXiv:1608.00507) on targets that were planted: does the maximum of the map of a
trained classifier lie in what makes the image positive? A network with random weights must fail it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.evaluation.statistics.proportions import wilson
from inference.explanation import maps
from inference.networks import table

SIDE, RADIUS, HELD_OUT = 48, 5, 60


def planted(seed: int, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Noise with three striped discs, and where the target is. In a positive image the stripes of one disc run upright;
    all others lie, and are as bright, as large and as rich in contrast: only what the network learned tells them apart.
    """
    random = np.random.default_rng(seed)
    image = random.normal(0, 1, (SIDE, SIDE))
    y, x = np.indices(image.shape)
    quarters = random.permutation([(0, 0), (0, 1), (1, 0), (1, 1)])[:3]
    target = np.zeros(image.shape, dtype=bool)
    for number, (down, right) in enumerate(quarters):
        cy, cx = random.integers(RADIUS + 2, SIDE // 2 - RADIUS - 2, 2) + np.array([down, right]) * SIDE // 2
        where = (y - cy) ** 2 + (x - cx) ** 2 <= RADIUS**2
        upright = positive and number == 0
        image = image + where * 2.5 * np.where(((x if upright else y) // 2) % 2 == 0, 1.0, -1.0)
        target |= where & upright
    return image.astype(np.float32), target


def trained() -> nn.Module:
    torch.manual_seed(0)
    network = fresh()
    images = torch.from_numpy(np.stack([planted(seed, seed % 2 == 1)[0] for seed in range(240)]))[:, None]
    truth = torch.arange(240) % 2
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    for _ in range(12):
        for part in torch.randperm(len(images), generator=order).split(24):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[part]), truth[part]).backward()
            optimiser.step()
    return network.eval()


def fresh() -> nn.Module:
    return table.build(
        "cnn", dimensions=2, in_channels=1, out_channels=2,
        parameters={"channels": [8, 16], "hidden": 16, "dropout": 0.0},
    ).eval()  # fmt: skip


def by_grad_cam(network: nn.Module, image: Tensor) -> np.ndarray:
    found = maps.grad_cam(network, image, 1).numpy()
    return maps.spread(found, maps.cells(network, image.shape[2:], found.shape), image.shape[2:])


def by_occlusion(network: nn.Module, image: Tensor) -> np.ndarray:
    def scores(images: Tensor) -> Tensor:
        return torch.softmax(network(images), dim=1)

    return maps.occlusion(scores, image, patch=(8, 8), stride=(2, 2), baseline="mean")[1].numpy()


def hits(network: nn.Module, explain: Callable[[nn.Module, Tensor], np.ndarray], images: range) -> int:
    count = 0
    for seed in images:
        image, where = planted(seed, positive=True)
        found = explain(network, torch.from_numpy(image)[None, None])
        count += bool(where[np.unravel_index(int(found.argmax()), found.shape)])
    return count


@pytest.fixture(scope="module")
def network():
    return trained()


def test_the_classifier_has_learned_what_was_planted(network):
    images = torch.from_numpy(np.stack([planted(seed, seed % 2 == 1)[0] for seed in range(20_000, 20_100)]))[:, None]
    with torch.inference_mode():
        right = int((network(images).argmax(dim=1) == torch.arange(100) % 2).sum())
    assert right >= 95


@pytest.mark.parametrize("explain", [by_grad_cam, by_occlusion])
def test_the_maximum_of_the_map_lies_in_the_planted_target(network, explain):
    """At least 90 % of the held-out images; chance among the discs is a third."""
    count = hits(network, explain, range(10_000, 10_000 + HELD_OUT))
    interval = wilson(count, HELD_OUT)
    assert interval.estimate >= 0.9, interval
    assert interval.lower > 0.8, interval


@pytest.mark.parametrize("explain", [by_grad_cam, by_occlusion])
def test_random_weights_do_not_point_at_the_target(explain):
    count = 0
    for draw in range(4):
        torch.manual_seed(draw)
        count += hits(fresh(), explain, range(10_000 + draw * 15, 10_015 + draw * 15))
    interval = wilson(count, HELD_OUT)
    assert interval.upper < 0.7, interval
