"""The engine on volumes whose right answer is constructed: bright voxels, however the image lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.errors import PredictionError
from inference.prediction import engine
from inference.registry.bundle import Bundle, check_manifest
from studies.dicom.volume import Volume
from tests.inference.models_factory import ball_manifest, ball_map


class BrightVoxels(nn.Module):
    """Sure of class 1 above 0.75 and of class 2 between 0.25 and 0.75 of the range."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x > 0.75, (x > 0.25) & (x <= 0.75)
        return self.weight * torch.cat([(~first & ~second).float(), first.float(), second.float()], dim=1)


def model(steps: list[dict], **changes) -> engine.LoadedModel:
    manifest = check_manifest(
        ball_manifest(preprocessing=[*steps, {"name": "normalise", "method": "range"}], **changes)
    )
    return engine.LoadedModel(Bundle(Path("unused"), manifest, "0"), BrightVoxels(), torch.device("cpu"))


def volume(labels: np.ndarray, **geometry) -> Volume:
    return Volume((100 * (labels == 1) + 50 * (labels == 2)).astype(np.int16), **geometry)


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, 1, -1]), np.eye(3)[:, [1, 2, 0]]])
def test_the_label_map_lies_on_the_original_grid(direction):
    labels = ball_map(3)
    image = volume(labels, spacing=(2.0, 1.0, 0.5), origin=(5, 6, 7), direction=direction)
    found = model([{"name": "orient", "to": "LPS"}], inputs=[{"name": "image"}]).predict(image)
    assert np.array_equal(found.label_map, labels)
    assert found.volumes_ml["Ball"] == pytest.approx((labels == 1).sum() * 2.0 * 1.0 * 0.5 / 1000)
    assert found.scores["Ball"] > 0.999


def test_a_resampled_image_comes_back_on_its_own_grid():
    labels = np.kron(ball_map(3), np.ones((1, 2, 2), dtype=np.uint8))  # finer in the plane
    image = volume(labels, spacing=(1.0, 0.5, 0.5))
    found = model([{"name": "resample", "spacing": [1, 1, 1]}]).predict(image)
    assert found.label_map.shape == labels.shape
    overlap = 2 * ((found.label_map == 1) & (labels == 1)).sum() / ((found.label_map == 1).sum() + (labels == 1).sum())
    assert overlap > 0.9


def test_what_was_cropped_away_is_background():
    labels = ball_map(3)
    image = volume(labels)
    found = model([{"name": "crop_foreground", "above": 60}], inputs=[{"name": "image"}]).predict(image)
    assert np.array_equal(found.label_map == 1, labels == 1)
    assert not found.label_map[:2].any()


def test_too_few_slices_are_refused_in_words():
    with pytest.raises(PredictionError, match=r"too few slices .* 3×16×20 voxels .* at least 6×8×10"):
        model([]).predict(volume(ball_map(3)[5:8]))


def test_a_structure_that_is_not_there_has_a_low_score():
    found = model([]).predict(volume(ball_map(3, dim=False)))
    assert found.scores["Ball"] > 0.99 > 0.01 > found.scores["Dim ball"]
    assert found.volumes_ml["Dim ball"] == 0


def test_models_stay_loaded_and_the_oldest_goes_first(monkeypatch):
    loads: list[str] = []
    monkeypatch.setattr(engine, "load", lambda bundle: loads.append(bundle) or bundle)
    warm = engine.WarmModels(capacity=2)
    for digest in ("a", "b", "a", "c", "a", "b"):
        warm.get(digest, lambda digest=digest: digest)
    assert loads == ["a", "b", "c", "b"]
