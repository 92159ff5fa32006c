"""The property that defines each strategy, on the real backbone and on constructed images."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample

from inference.imaging.augmentation import Augmentation
from inference.networks import adaptation
from inference.training import classifier
from inference.training import config as configuration
from inference.training.class_cases import ClassifiedCase
from inference.training.module import Clock, SegmentationModule
from tests.inference.models_factory import CONFIG
from tests.inference.training.test_fit import NAMES, Watch

BACKBONE = {
    "name": "radiographs",
    "task": "classification",
    "preprocessing": [],
    "network": {"name": "efficientnet_lite0", "dimensions": 2, "dropout": 0.0},
    "training": {
        "patch": [1, 32, 32],
        "batch_size": 4,
        "epochs": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "gradient_clip": 0.0,
        "averaging": 0.0,
        "weights": "imagenet",
    },
}


def pictures() -> list[ClassifiedCase]:
    draw = torch.Generator().manual_seed(0)
    return [ClassifiedCase(f"C-{n}", torch.randn(1, 1, 32, 32, generator=draw) + 2 * (n % 2), n % 2) for n in range(4)]


def test_transfer_moves_the_real_backbone_by_its_own_share_of_the_learning_rate_and_tells_what_was_loaded(tmp_path):
    """The first step of Adam is as long as the learning rate, whatever the gradient."""
    settings = {
        **BACKBONE["training"],
        "strategy": "transfer",
        "backbone_rate": 0.05,
        "learning_rate": 0.1,
        "warmup": 0.0,
    }
    config = configuration.check({**BACKBONE, "training": settings})
    before, _, _ = classifier.build(config, 2)
    watch = Watch()
    made = classifier.train(config, ["low", "high"], pictures(), [], tmp_path / "run", tmp_path / "kept", watch)
    assert "294 of 296 tensors loaded from the ImageNet weights" in "".join(watch.lines)
    assert "trained from fresh values: classifier.1.weight, classifier.1.bias" in "".join(watch.lines)
    assert (len(made.loaded["loaded"]), made.loaded["unused"]) == (294, [])
    head, _ = adaptation.head_of(made.network)
    after = dict(made.network.named_parameters())
    moved = {name: float((after[name] - value).detach().abs().max()) for name, value in before.named_parameters()}
    last = max(length for name, length in moved.items() if name.startswith(head))
    backbone = [length for name, length in moved.items() if not name.startswith(head)]
    assert last > 0
    assert max(backbone) == pytest.approx(0.05 * last, rel=0.02)


def test_frozen_leaves_the_real_backbone_bit_for_bit_and_computes_features_once(tmp_path):
    config = configuration.check({**BACKBONE, "training": {**BACKBONE["training"], "strategy": "frozen"}})
    before, _, _ = classifier.build(config, 2)
    made = classifier.train(config, ["low", "high"], pictures(), [], tmp_path / "run", tmp_path / "kept", Watch())
    head, _ = adaptation.head_of(made.network)
    after = made.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.state_dict().items() if head not in name)
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.stem == made.backbone
    stamp = kept.stat().st_mtime_ns
    classifier.train(config, ["low", "high"], pictures(), [], tmp_path / "run", tmp_path / "kept", Watch())
    assert kept.stat().st_mtime_ns == stamp


def smooth_image() -> torch.Tensor:
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (40, 56, 48)), indexing="ij")
    return torch.exp(-3 * (z**2 + (y - 0.2) ** 2 + 1.5 * (x + 0.1) ** 2))[None, None]


def warped(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    grid = affine_grid(matrix[None], list(image.shape), align_corners=False)
    return grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


@pytest.mark.parametrize("seed", range(4))
def test_an_affine_augmentation_and_its_inverse_are_the_identity(seed):
    settings = {"rotation": 25.0, "scale": 0.2, "shift": 0.05, "flip": ["x", "y", "z"]}
    image = smooth_image()
    matrix = Augmentation(settings)._affine(image.shape[2:], torch.Generator().manual_seed(seed))
    square = torch.cat([matrix, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    there = warped(image, matrix)
    back = warped(there, torch.linalg.inv(square)[:3])
    inside = (..., slice(10, -10), slice(14, -14), slice(12, -12))  # what left the patch cannot come back
    assert float((there - image).abs()[inside].max()) > 0.1
    assert float((back - image).abs()[inside].max()) < 0.015  # interpolated twice


def test_an_intensity_augmentation_and_its_inverse_are_the_identity():
    image = torch.randn(3, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    settings = {"contrast": 0.4, "brightness": 0.7}
    changed, _ = Augmentation(settings)(image, torch.zeros_like(image).long(), torch.Generator().manual_seed(2))
    assert not torch.allclose(changed, image, atol=0.05)
    for before, after in zip(image, changed, strict=True):
        # A straight line through two voxels undoes the change in all the others.
        slope = (before.flatten()[1] - before.flatten()[0]) / (after.flatten()[1] - after.flatten()[0])
        undone = (after - after.flatten()[0]) * slope + before.flatten()[0]
        assert torch.allclose(undone, before, atol=1e-4)


def test_early_stopping_keeps_the_best_weights_and_ends_after_its_patience():
    config = configuration.check({**CONFIG, "training": {**CONFIG["training"], "early_stopping": 2}})
    module = SegmentationModule(config, NAMES, Clock(10, 0))
    module._trainer = SimpleNamespace(should_stop=False)  # type: ignore[assignment]
    course = [0.3, 0.6, 0.5, 0.6, 0.55, 0.4]
    stopped = []
    for number, value in enumerate(course):
        with torch.no_grad():
            for weight in module.averaged.parameters():
                weight.fill_(float(number))
        module.validation = {NAMES[0]: [value], NAMES[1]: [value]}
        module.note_validation()
        stopped.append(module._trainer.should_stop)
    assert stopped == [False, False, False, True, True, True]
    kept = {float(value.flatten()[0]) for name, value in module.final_weights().items() if "weight" in name}
    assert kept == {3.0}  # of two equal validations the longer trained one
