"""Grad-CAM and occlusion against values worked out by hand and against MONAI."""

from __future__ import annotations

import monai.visualize
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from inference.errors import ExplanationError
from inference.explanation import maps
from inference.explanation.settings import patch_starts
from inference.networks import table


class Tiny(nn.Module):
    """Two 1×1 feature maps, their means, a linear layer: everything can be worked out on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
            self.classifier.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 0.5]]))

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


def test_grad_cam_is_what_is_worked_out_by_hand():
    image = torch.tensor([[1.0, -2.0], [0.0, 4.0]])[None, None]
    # A1 = x, A2 = -2x, 4 cells: ∂(3·mean A1 + mean A2)/∂A1 = 3/4, ∂/∂A2 = 1/4, so α = (3/4, 1/4) and the sum is
    # 3/4 x - 2/4 x = x/4; for the other class -1/4 x - 1/4 x = -x/2. ReLU keeps what speaks for the class.
    assert maps.grad_cam(Tiny(), image, 0).tolist() == [[0.25, 0.0], [0.0, 1.0]]
    assert maps.grad_cam(Tiny(), image, 1).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_grad_cam_of_a_frozen_network_is_the_same_and_leaves_it_frozen():
    network = Tiny().train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    image = torch.randn(1, 1, 5, 5)
    with torch.inference_mode(False), torch.no_grad():
        found = maps.grad_cam(network, image, 0)
    torch.testing.assert_close(found, maps.grad_cam(Tiny(), image, 0))
    assert network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


NETWORKS = [
    ("resnet18", 2, {"channels": [4, 8, 8, 16]}, "layer4", 64),
    ("resnet18", 3, {"channels": [4, 8, 8, 16]}, "layer4", 32),
    ("densenet121", 2, {"features": 8, "growth": 4}, "class_layers.relu", 64),
    ("cnn", 3, {"channels": [4, 8], "hidden": 8}, "features", 16),
]


@pytest.mark.parametrize(("name", "dimensions", "parameters", "layer", "side"), NETWORKS)
def test_grad_cam_is_that_of_monai(name, dimensions, parameters, layer, side):
    torch.manual_seed(2)
    network = table.build(name, dimensions=dimensions, in_channels=1, out_channels=6, parameters=parameters).eval()
    image = torch.randn(1, 1, *[side] * dimensions)
    explain = monai.visualize.GradCAM(network, layer)
    found = [maps.grad_cam(network, image, label) for label in range(6)]
    assert max(float(ours.max()) for ours in found) > 0
    for label, ours in enumerate(found):
        theirs = explain.compute_map(image.clone().requires_grad_(True), class_idx=label)[0, 0]
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-6)


POOLED = ["resnet18", "resnet50", "densenet121", "googlenet", "efficientnet_lite0"]


@pytest.mark.parametrize("name", [name for name in table.named(table.CLASSIFICATION) if name != "vit"])
def test_every_convolutional_classifier_has_a_grad_cam(name):
    parameters = {"size": 64} if name == "darkcovidnet" else {}
    if name.startswith("resnet"):
        parameters = {"channels": [4, 8, 8, 8]}
    side = 224 if name in ("alexnet", "vgg16", "vgg19") else 64
    torch.manual_seed(1)
    network = table.build(name, dimensions=2, in_channels=1, out_channels=2, parameters=parameters)
    image = torch.randn(1, 1, side, side)
    found = maps.weighted_features(network, image, 1)
    assert found.ndim == 2
    assert len(found) > 1
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) > 0
    if name in POOLED:  # the logit is a linear layer of the map's mean, so the cells add up to it
        bias = [module for module in network.modules() if isinstance(module, nn.Linear)][-1].bias
        with torch.no_grad():
            logit = float(network.eval()(image)[0, 1] - bias[1])
        assert float(found.sum()) == pytest.approx(logit, rel=1e-3, abs=1e-5)


def test_networks_without_a_feature_map_are_sent_to_occlusion():
    transformer = table.build(
        "vit", dimensions=2, in_channels=1, out_channels=2,
        parameters={"image": [32], "patch": 16, "width": 8, "depth": 1, "heads": 2, "inner": 8},
    )  # fmt: skip
    program = torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    for network in (transformer, program):
        with pytest.raises(ExplanationError) as refused:
            maps.grad_cam(network, torch.zeros(1, 1, 32, 32), 0)
        assert "occlusion" in refused.value.next_step


def test_a_label_that_the_network_lacks_is_refused():
    with pytest.raises(ExplanationError, match="answer number 3"):
        maps.grad_cam(Tiny(), torch.zeros(1, 1, 4, 4), 2)


@pytest.mark.parametrize(
    ("name", "size", "first", "step"),
    # AlexNet: 11/4 with padding 2, pool 3/2, 5 with padding 2, pool 3/2, three 3 with padding 1, pool 3/2
    [("alexnet", 224, 31.0, 32.0), ("vgg16", 224, 15.5, 32.0)],
)
def test_cells_lie_where_the_layers_put_them(name, size, first, step):
    network = table.build(name, dimensions=2, in_channels=1, out_channels=2, parameters={})
    found = maps.cells(network, (size, size), (6, 6) if name == "alexnet" else (7, 7))
    assert found == maps.Cells((first, first), (step, step))


def test_cells_of_darkcovidnet_are_the_middles_of_what_they_see():
    """Its padded 1×1 convolutions put cells beyond the border; the truth here is which pixels move a cell."""
    network = table.build("darkcovidnet", dimensions=2, in_channels=1, out_channels=2, parameters={"size": 256}).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # every pixel of the receptive field counts with the same sign
            nn.init.constant_(module.weight, 1e-2)
    features = nn.Sequential(*[nn.AvgPool2d(2) if isinstance(m, nn.MaxPool2d) else m for m in network.features])
    image = torch.ones(1, 1, 768, 768, requires_grad=True)
    made = features(image)
    found = maps.cells(network, (256, 256), (13, 13))
    middle = made.shape[2] // 2
    (gradient,) = torch.autograd.grad(made[0, 0, middle, middle], image)
    moved = torch.nonzero(gradient[0, 0].sum(dim=1)).flatten()
    assert 0 < int(moved[0]) < int(moved[-1]) < 767, "the border cuts nothing off"
    assert found.starts[0] + middle * found.steps[0] == (int(moved[0]) + int(moved[-1])) / 2
    assert found.steps == (32.0, 32.0)


def test_branches_divide_the_image_evenly():
    network = table.build("resnet18", dimensions=2, in_channels=1, out_channels=2, parameters={"channels": [4] * 4})
    assert maps.cells(network, (64, 96), (2, 3)) == maps.Cells((15.5, 15.5), (32.0, 32.0))


def test_spreading_keeps_the_values_at_the_centres():
    values = np.array([[1.0, 3.0], [5.0, 7.0]])
    made = maps.spread(values, maps.Cells((1.0, 1.0), (2.0, 2.0)), (5, 5))
    assert made[1::2, 1::2].tolist() == values.tolist()
    assert made[2, 2] == 4.0
    assert made[0, 0] == 1.0
    assert made[4, 4] == 7.0


# ---- occlusion

WEIGHTS = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(3))


def linear(images):
    """Two scores that are sums of the pixels with fixed weights."""
    return torch.einsum("bchw,shw->bs", images.double(), WEIGHTS.double()).float()


def test_occlusion_of_a_linear_score_is_the_sum_of_what_is_covered():
    """With one pixel covered by 0 the fall of a linear score is weight × pixel."""
    image = torch.randn(1, 1, 12, 10)
    found = maps.occlusion(linear, image, patch=(1, 1), stride=(1, 1), baseline=0.0)
    torch.testing.assert_close(found, WEIGHTS * image[0], rtol=1e-4, atol=1e-5)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_falls_of_patches_that_do_not_overlap_add_up_to_the_whole(patch, channels, seed):
    """Covering disjoint patches one by one takes from a linear score what covering all takes."""
    size = (patch * 3, patch * 2)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(channels, *size, generator=generator).double()
    image = torch.randn(1, channels, *size, generator=generator)

    def scores(images):
        return torch.einsum("bchw,chw->b", images.double(), weights)[:, None].float()

    found = maps.occlusion(scores, image, patch=(patch, patch), stride=(patch, patch), baseline="mean")
    means = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    whole = float((scores(image) - scores(means))[0, 0])
    assert float(found.sum()) / patch**2 == pytest.approx(whole, abs=1e-3)


@given(st.floats(-3, 3, width=32), st.sampled_from(["mean", "minimum"]), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_occlusion_of_a_constant_image_is_zero(value, baseline, patch):
    image = torch.full((1, 1, 12, 10), value)
    cover = "minimum" if baseline == "minimum" else float(value)
    found = maps.occlusion(linear, image, patch=(patch, patch), stride=(1, 1), baseline=cover)
    assert not found.any()


def test_occlusion_is_zero_where_the_image_is_already_covered():
    image = torch.zeros(1, 1, 12, 10)
    image[0, 0, 8:, 6:] = 1.0
    found = maps.occlusion(linear, image, patch=(2, 2), stride=(2, 2), baseline=0.0)
    assert not found[:, :8].any()
    assert found[:, 8:, 6:].abs().min() > 0


def test_occlusion_is_that_of_monai():
    torch.manual_seed(5)
    network = table.build(
        "cnn", dimensions=3, in_channels=1, out_channels=2, parameters={"channels": [4, 4], "hidden": 4}
    )
    network.eval()
    image = torch.randn(1, 1, 12, 12, 12)

    def scores(images):
        return torch.softmax(network(images), dim=1)

    found = maps.occlusion(scores, image, patch=(4, 4, 4), stride=(2, 2, 2), baseline=0.25)
    theirs, _ = monai.visualize.OcclusionSensitivity(
        network, mask_size=4, mode=0.25, overlap=0.5, verbose=False, activate=lambda logits: logits.softmax(1)
    )(image)
    with torch.no_grad():
        whole = scores(image)[0].reshape(2, 1, 1, 1)
    torch.testing.assert_close(found, whole - theirs[0].as_tensor(), rtol=1e-3, atol=1e-5)


def test_the_last_patch_ends_at_the_border():
    assert patch_starts((10, 7), (4, 4), (4, 4)) == [[0, 4, 6], [0, 3]]
    found = maps.occlusion(linear, torch.randn(1, 1, 12, 10), patch=(5, 4), stride=(5, 4))
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("patch", "stride", "words"),
    [((20, 4), (1, 1), "larger than"), ((2, 2), (3, 1), "never covered"), ((0, 1), (1, 1), "from 1"),
     ((2,), (1,), "each axis")],
)  # fmt: skip
def test_patches_that_make_no_sense_are_refused(patch, stride, words):
    with pytest.raises(ExplanationError, match=words):
        maps.occlusion(linear, torch.zeros(1, 1, 12, 10), patch=patch, stride=stride)


def test_too_many_patches_are_refused_before_the_work():
    with pytest.raises(ExplanationError, match="at most"):
        patch_starts((64, 64, 64), (2, 2, 2), (1, 1, 1))


def test_occlusion_stops_when_asked():
    class Stop(Exception):
        pass

    def tick(share):
        if share > 0:
            raise Stop

    with pytest.raises(Stop):
        maps.occlusion(linear, torch.randn(1, 1, 12, 10), patch=(1, 1), stride=(1, 1), tick=tick)
