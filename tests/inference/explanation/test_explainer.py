"""Maps on the grid of the original image, whatever preprocessing did to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.errors import ExplanationError
from inference.explanation.explainer import explain
from inference.explanation.settings import methods, wanted
from inference.prediction.engine import LoadedModel
from inference.registry.bundle import Bundle
from studies.dicom.volume import Volume
from tests.inference.explanation.conftest import manifest
from tests.studies.dicom.slices import rotation


class Brightness(nn.Module):
    """Its feature map is the image, its first logit the mean of what is bright, its second the opposite."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.pool = nn.AdaptiveAvgPool3d(1) if dimensions == 3 else nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        mean = self.pool(self.features(x)).flatten(1)
        return torch.cat([mean, -mean], dim=1)


def loaded(module: nn.Module, **changes) -> LoadedModel:
    return LoadedModel(Bundle(Path(), manifest(**changes), ""), module.eval(), torch.device("cpu"))


IN_3D = {
    "preprocessing": [
        {"name": "orient", "to": "RAI"},
        {"name": "resample", "spacing": [2.0, 1.0, 1.0]},
        {"name": "rescale", "lower": 0, "upper": 100},
    ],
    "network": {"name": "cnn", "dimensions": 3, "parameters": {"channels": [2], "hidden": 2}},
    "inference": {"window": [14, 30, 26], "overlap": 0.5, "mirror": []},
}


def spot(at, shape=(12, 40, 50)) -> Volume:
    """One bright place in an oblique, anisotropic volume."""
    z, y, x = np.indices(shape)
    distance = ((z - at[0]) * 2.5) ** 2 + ((y - at[1]) * 0.8) ** 2 + ((x - at[2]) * 0.6) ** 2
    array = (100 * np.exp(-distance / 30)).astype(np.float32)
    return Volume(array, (2.5, 0.8, 0.6), (-20.0, 33.0, 5.0), rotation(8, -5, 12))


@pytest.mark.parametrize("at", [(6, 20, 25), (4, 14, 31), (8, 27, 18)])
def test_the_map_lies_over_what_it_shows_after_turning_and_resampling(at):
    volume = spot(at)
    model = loaded(Brightness(3), **IN_3D)
    for method, near in (("grad_cam", 1.5), ("occlusion", 3.0)):
        asked = wanted(model.bundle.manifest, method=method, labels=["disc"], patch=4, stride=2, baseline=0.0)
        (found,) = explain(model, volume, asked, tick=lambda share: None)
        assert found.volume.shape == volume.shape
        np.testing.assert_allclose(found.volume.affine, volume.affine)
        peak = np.unravel_index(int(found.volume.array.argmax()), volume.shape)
        apart = (np.array(peak) - at) * np.array(volume.spacing)
        assert np.linalg.norm(apart) <= near, (method, peak, at)


def test_grad_cam_of_brightness_is_the_image_itself():
    """On a grid that preprocessing keeps, the map is the image divided by its number of cells."""
    image = np.random.default_rng(1).random((1, 24, 20)).astype(np.float32)
    model = loaded(Brightness(2), preprocessing=[], inference={"window": [1, 24, 20], "overlap": 0, "mirror": []})
    asked = wanted(model.bundle.manifest, method="grad_cam", labels=["disc", "bar"])
    first, second = explain(model, Volume(image), asked, tick=lambda share: None)
    np.testing.assert_allclose(first.volume.array, image / image.size, rtol=1e-5)
    assert not second.volume.array.any()


def test_what_the_model_does_not_see_is_zero():
    image = np.ones((1, 40, 40), dtype=np.float32)
    model = loaded(Brightness(2), preprocessing=[], inference={"window": [1, 20, 20], "overlap": 0, "mirror": []})
    asked = wanted(model.bundle.manifest, method="grad_cam", labels=["disc"])
    (found,) = explain(model, Volume(image), asked, tick=lambda share: None)
    assert np.argwhere(found.volume.array > 0)[:, 1:].min() == 10
    assert np.argwhere(found.volume.array > 0)[:, 1:].max() == 29


def test_occlusion_adds_up_to_nothing_over_labels_that_exclude_each_other():
    """Probabilities of a softmax add up to one before and after, so their falls cancel."""
    image = np.random.default_rng(2).normal(size=(1, 24, 20)).astype(np.float32)
    model = loaded(Brightness(2), preprocessing=[], inference={"window": [1, 24, 20], "overlap": 0, "mirror": []})
    asked = wanted(model.bundle.manifest, method="occlusion", labels=["disc", "bar"])
    first, second = explain(model, Volume(image), asked, tick=lambda share: None)
    np.testing.assert_allclose(first.volume.array, -second.volume.array, atol=1e-6)
    assert np.abs(first.volume.array).max() > 0


def test_labels_that_overlap_are_explained_one_by_one():
    """With sigmoids the fall of one label does not depend on the other's logit."""

    class Halves(nn.Module):
        def forward(self, x):
            return torch.stack([x[..., :10].mean(dim=(1, 2, 3)), x[..., 10:].mean(dim=(1, 2, 3))], dim=1)

    image = np.ones((1, 24, 20), dtype=np.float32)
    model = loaded(
        Halves(), preprocessing=[], inference={"window": [1, 24, 20], "overlap": 0, "mirror": []},
        output={"activation": "sigmoid", "threshold": 0.5},
    )  # fmt: skip
    asked = wanted(model.bundle.manifest, method="occlusion", labels=["disc", "bar"], patch=2, stride=2, baseline=0.0)
    left, right = (found.volume.array for found in explain(model, Volume(image), asked, tick=lambda share: None))
    assert not left[..., 10:].any()
    assert left[..., :10].min() > 0
    assert not right[..., :10].any()


def test_an_ensemble_is_explained_by_the_mean_of_its_members():
    image = np.random.default_rng(3).random((1, 16, 16)).astype(np.float32)
    settings = {"preprocessing": [], "inference": {"window": [1, 16, 16], "overlap": 0, "mirror": []}}

    class Part(Brightness):
        def __init__(self, factor: float) -> None:
            super().__init__(2)
            self.factor = factor

        def forward(self, x):
            return self.factor * super().forward(x)

    one = loaded(Part(1.0), **settings)
    both = LoadedModel(one.bundle, one.network, one.device, (Part(3.0).eval(),))
    asked = wanted(one.bundle.manifest, method="grad_cam", labels=["disc"])
    (alone,) = explain(one, Volume(image), asked, tick=lambda share: None)
    (together,) = explain(both, Volume(image), asked, tick=lambda share: None)
    np.testing.assert_allclose(together.volume.array, 2 * alone.volume.array, rtol=1e-5)


def test_several_inputs_are_covered_together():
    """Covering a place takes it from every input: the fall is that of their sum."""

    class Sum(nn.Module):
        def forward(self, x):
            total = x.sum(dim=(2, 3)).sum(dim=1, keepdim=True)
            return torch.cat([total, -total], dim=1)

    random = np.random.default_rng(4)
    first, second = (random.random((1, 8, 8)).astype(np.float32) * 0.01 for _ in range(2))
    model = loaded(
        Sum(), preprocessing=[], inference={"window": [1, 8, 8], "overlap": 0, "mirror": []},
        inputs=[{"name": "a", "smallest": [1, 2, 2]}, {"name": "b", "smallest": [1, 2, 2]}],
        output={"activation": "sigmoid", "threshold": 0.5},
    )  # fmt: skip
    asked = wanted(model.bundle.manifest, method="occlusion", labels=["disc"], patch=1, stride=1, baseline=0.0)
    (found,) = explain(model, Volume(first), asked, others=[Volume(second)], tick=lambda share: None)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    total = float(first.sum() + second.sum())
    np.testing.assert_allclose(found.volume.array, sigmoid(total) - sigmoid(total - first - second), atol=1e-5)


@pytest.mark.parametrize(("pooling", "slices"), [("centre", [2]), ("mean", [0, 1, 2, 3, 4]), ("max", [3])])
def test_of_a_stack_the_slices_are_explained_that_count(pooling, slices):
    stack = np.random.default_rng(5).random((5, 12, 12)).astype(np.float32)
    stack[3] += 1  # the likeliest slice
    model = loaded(
        Brightness(2), preprocessing=[],
        inference={"window": [1, 12, 12], "overlap": 0, "mirror": [], "pooling": pooling},
    )  # fmt: skip
    asked = wanted(model.bundle.manifest, method="grad_cam", labels=["disc"])
    (found,) = explain(model, Volume(stack), asked, tick=lambda share: None)
    assert [z for z in range(5) if found.volume.array[z].any()] == slices
    np.testing.assert_allclose(found.volume.array[slices], stack[slices] / 144, rtol=1e-5)


def test_a_network_with_its_axes_turned_gives_the_same_map():
    image = np.random.default_rng(6).random((1, 12, 20)).astype(np.float32)

    class Left(nn.Module):
        """Sees [x, y]: its feature map is the image, weighted along its first axis."""

        def __init__(self) -> None:
            super().__init__()
            self.features, self.pool = nn.Identity(), nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            assert x.shape[2:] == (20, 12)
            mean = self.pool(self.features(x)).flatten(1)
            return torch.cat([mean, -mean], dim=1)

    model = loaded(
        Left(), preprocessing=[], inference={"window": [1, 12, 20], "overlap": 0, "mirror": [], "axes": "xyz"}
    )
    asked = wanted(model.bundle.manifest, method="grad_cam", labels=["disc"])
    (found,) = explain(model, Volume(image), asked, tick=lambda share: None)
    np.testing.assert_allclose(found.volume.array, image / image.size, rtol=1e-5)


def test_occlusion_of_a_regression_is_in_the_targets_unit():
    image = np.ones((1, 8, 8), dtype=np.float32)

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3))[:, None]

    model = loaded(
        Mean(), task="regression", preprocessing=[], output={"activation": "linear"},
        labels=[{"number": 1, "name": "Age", "unit": "a", "mean": 60.0, "scale": 12.0}],
        inference={"window": [1, 8, 8], "overlap": 0, "mirror": []},
    )  # fmt: skip
    asked = wanted(model.bundle.manifest, method="occlusion", labels=["Age"], patch=1, stride=1, baseline=0.0)
    (found,) = explain(model, Volume(image), asked, tick=lambda share: None)
    assert found.unit == "a"
    np.testing.assert_allclose(found.volume.array, 12 / 64, rtol=1e-4)


def test_programs_are_explained_by_occlusion_alone_and_say_why():
    of_program = manifest(network={"name": "torchscript", "dimensions": 2})
    refused = methods(of_program)
    assert "TorchScript" in refused["grad_cam"]
    assert refused["occlusion"] == ""
    with pytest.raises(ExplanationError, match="TorchScript"):
        wanted(of_program, method="grad_cam", labels=["disc"])


def test_settings_have_defaults_that_fit_what_the_model_sees():
    asked = wanted(manifest(), method="occlusion", labels=["disc"])
    assert (asked.patch, asked.stride) == (4, 2)
    assert asked.boxes((1, 32, 32)) == ((1, 4, 4), (1, 2, 2))
    thin = manifest(
        network={"name": "cnn", "dimensions": 3, "parameters": {"channels": [2]}},
        inference={"window": [3, 64, 64], "overlap": 0, "mirror": []},
    )
    assert wanted(thin, method="occlusion", labels=["disc"]).boxes((3, 64, 64)) == ((3, 8, 8), (3, 4, 4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["ring"]}, "no label 'ring'"),
        ({"labels": []}, "No label"),
        ({"method": "lime"}, "no method 'lime'"),
        ({"baseline": "blur"}, "no baseline 'blur'"),
        ({"patch": 99}, "larger than"),
        ({"patch": 4, "stride": 99}, ""),
    ],
)
def test_wrong_wishes_are_said_in_words(changes, words):
    asked = {"method": "occlusion", "labels": ["disc"], **changes}
    if not words:  # a step longer than the patch is cut to it, so nothing stays uncovered
        assert wanted(manifest(), **asked).boxes((1, 32, 32))[1] == (1, 4, 4)
        return
    with pytest.raises(ExplanationError, match=words):
        wanted(manifest(), **asked)
