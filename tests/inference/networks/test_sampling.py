"""Means and uncertainty over several answers, against formulas and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn

from inference.networks import sampling, sliding_window
from inference.networks.sampling import Tally

RANDOM = np.random.default_rng(0)
ANSWERS = RANDOM.dirichlet([1, 1, 1], size=7)  # [answer, class]


def tally(answers: np.ndarray, activation: str, measure: str) -> Tally:
    made = Tally(activation, measure)
    for answer in answers:
        made.add(torch.from_numpy(answer).float())
    return made


def test_the_measures_are_those_of_scipy_and_numpy():
    mean = ANSWERS.mean(axis=0)
    assert tally(ANSWERS, "softmax", "").mean.numpy() == pytest.approx(mean, abs=1e-6)
    assert tally(ANSWERS, "softmax", "entropy").uncertainty() == pytest.approx(entropy(mean, base=2), abs=1e-5)
    mutual = entropy(mean, base=2) - np.mean([entropy(answer, base=2) for answer in ANSWERS])
    assert tally(ANSWERS, "softmax", "mutual_information").uncertainty() == pytest.approx(mutual, abs=1e-5)
    assert tally(ANSWERS, "softmax", "variance").uncertainty() == pytest.approx(ANSWERS.var(axis=0).mean(), abs=1e-6)


def test_labels_that_do_not_exclude_each_other_have_an_entropy_each():
    shares = np.array([[0.5, 1.0, 0.25]])
    wanted = np.mean([entropy([p, 1 - p], base=2) for p in shares[0]])
    assert tally(shares, "sigmoid", "entropy").uncertainty() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("measure", ["mutual_information", "variance"])
def test_answers_that_agree_have_no_disagreement(measure):
    assert tally(np.tile(ANSWERS[:1], (9, 1)), "softmax", measure).uncertainty() == pytest.approx(0.0, abs=1e-6)


class Constant(nn.Module):
    """The same logits, whatever it sees."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(x.shape[0], -1)


class Place(nn.Module):
    """The brightness in the first row of the first slice: mirror images and shifts see another one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.weight * x[:, 0, 0, 0].mean(dim=-1)
        return torch.stack([torch.zeros_like(found), found], dim=1)


WHOLE = {"window": [4, 6, 5], "mirror": ["y", "z"], "shifts": 2}
IMAGE = torch.from_numpy(RANDOM.normal(size=(1, 4, 6, 5)).astype(np.float32))


def whole(networks, settings, **more) -> Tally:
    return sliding_window.of_whole_image(
        networks, IMAGE, settings, **{"dimensions": 3, "activation": "softmax", **more}
    )


def test_mirror_images_and_shifts_change_nothing_for_a_constant_network():
    plain = torch.softmax(torch.tensor([0.2, 1.4]), dim=0)
    found = whole([Constant(0.2, 1.4)], WHOLE, measure="variance")
    assert torch.allclose(found.mean, plain, atol=1e-6)
    assert float(found.uncertainty()) < 1e-10
    assert found.count == sampling.count(1, WHOLE) == 12


def test_the_mean_is_taken_of_probabilities():
    """Written out by hand: each mirror image and its probability."""
    views = [torch.flip(IMAGE, axes) if axes else IMAGE for axes in ((), (-2,), (-3,), (-3, -2))]
    by_hand = np.mean([torch.sigmoid(view[0, 0, 0].mean()).item() for view in views])
    found = whole([Place()], {"window": [4, 6, 5], "mirror": ["y", "z"]})
    assert float(found.mean[1]) == pytest.approx(by_hand, abs=1e-6)


def test_an_ensemble_is_the_mean_of_its_members():
    members = [Constant(0.0, value) for value in (-1.0, 0.3, 2.0)]
    found = whole(members, {"window": [4, 6, 5]})
    alone = [float(whole([member], {"window": [4, 6, 5]}).mean[1]) for member in members]
    assert float(found.mean[1]) == pytest.approx(np.mean(alone), abs=1e-6)


def test_dropout_passes_differ_but_repeat():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(120, 2)).eval()
    settings = {"window": [4, 6, 5], "dropout": 6}
    state = torch.random.get_rng_state()
    first = whole([network], settings, measure="mutual_information")
    again = whole([network], settings, measure="mutual_information")
    assert torch.equal(first.mean, again.mean)
    assert float(first.uncertainty()) > 0.001
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers change
    assert not network[1].training


@pytest.mark.parametrize("pooling", ["centre", "mean", "max"])
def test_a_network_in_2d_goes_through_a_volume_slice_by_slice(pooling):
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(1, 2, 3))[:, None]

    slices = IMAGE[0].mean(dim=(1, 2))
    wanted = {"centre": slices[1], "mean": slices.mean(), "max": slices.max()}[pooling]
    found = whole([Mean()], {"window": [1, 6, 5], "pooling": pooling}, dimensions=2, activation="linear")
    assert float(found.mean) == pytest.approx(float(wanted), abs=1e-6)


def test_neighbouring_slices_are_channels_and_the_last_ones_repeat():
    image = torch.arange(2 * 4, dtype=torch.float32).reshape(2, 4, 1, 1).expand(2, 4, 3, 3)
    found = sliding_window.with_neighbours(image, 3)[:, :, 0, 0]
    # Input 0 below, itself, above; then input 1.
    assert found.tolist() == [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3], [4, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7, 7]]


def test_a_2_5d_network_that_looks_at_the_slice_above_gives_it():
    class Above(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(x[:, 2:]), x[:, 2:]], dim=1)

    found = sliding_window.sampled([Above()], IMAGE, {"window": [1, 4, 4], "slices": 3}).mean[1]
    above = torch.cat([IMAGE[0, 1:], IMAGE[0, -1:]])
    assert torch.allclose(found, torch.sigmoid(above), atol=1e-5)


@pytest.mark.parametrize("window", [[1, 4, 3], [3, 4, 3]])
def test_a_network_that_wants_x_before_y_gets_it_and_its_answer_is_turned_back(window):
    class Above(nn.Module):
        """The brightness of the next voxel along its second spatial axis from behind, which is x for this network."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            axis = 2
            moved = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
            return torch.cat([torch.zeros_like(x), moved], dim=1)

    image = IMAGE[:, : window[0], :4, :3]  # one window
    found = sliding_window.sampled([Above()], image, {"window": window, "axes": "xyz"}).mean[1]
    along_x = torch.cat([image[0, :, :, 1:], image[0, :, :, -1:]], dim=-1)
    assert torch.allclose(found, torch.sigmoid(along_x), atol=1e-5)
