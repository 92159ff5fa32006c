"""Each kind of model on images whose right answer is constructed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inference.errors import BundleError, PredictionError
from inference.prediction import engine
from inference.registry.bundle import Bundle, check_manifest
from studies.dicom.volume import Volume
from tests.inference.models_factory import Fixed, Voxelwise, ball_manifest

SHAPE = (12, 16, 20)
VOLUME = Volume(np.random.default_rng(3).uniform(0, 1, SHAPE).astype(np.float32), (2.0, 1.0, 1.0))


def loaded(network: nn.Module, *others: nn.Module, **changes) -> engine.LoadedModel:
    manifest = check_manifest(ball_manifest(**changes))
    return engine.LoadedModel(Bundle(Path("unused"), manifest, "0"), network, torch.device("cpu"), others)


def test_labels_that_do_not_exclude_each_other():
    model = loaded(
        Fixed(0.0, 2.0),
        task="classification",
        output={"activation": "sigmoid", "thresholds": {"Ball": 0.3}},
        inputs=[{"name": "image"}],
    )
    found = model.predict(VOLUME)
    assert found.scores == pytest.approx({"Ball": 0.5, "Dim ball": 1 / (1 + np.exp(-2))})
    assert found.label_map is None


def test_a_regression_answers_in_the_unit_of_its_target():
    labels = [{"number": 1, "name": "Age", "unit": "a", "mean": 60.0, "scale": 12.0}]
    settings = {"window": [12, 16, 20], "uncertainty": "variance"}
    model = loaded(
        Fixed(-0.5), Fixed(1.5), task="regression", labels=labels, output={}, inference={**settings, "mirror": ["x"]}
    )
    found = model.predict(VOLUME)
    assert found.values["Age"]["value"] == pytest.approx(60 + 12 * 0.5)
    assert found.values["Age"]["sd"] == pytest.approx(12.0)  # ±1 about the mean, times the scale
    assert found.values["Age"]["unit"] == "a"
    assert found.uncertainty["method"] == "2 members × 2 mirror images"
    assert found.scores == {}


def test_structures_that_overlap_keep_all_of_their_voxels():
    """The first label wherever it is brighter than 0.3, the second above 0.6 and so within the first."""
    model = loaded(
        Voxelwise([[40.0], [40.0]], [-12.0, -24.0]),
        output={"activation": "sigmoid", "threshold": 0.5},
        inputs=[{"name": "image"}],
    )
    found = model.predict(VOLUME)
    assert found.label_map is None
    assert np.array_equal(found.masks, np.stack([VOLUME.array >= 0.3, VOLUME.array >= 0.6]))
    assert found.volumes_ml["Ball"] == pytest.approx((VOLUME.array >= 0.3).sum() * 0.002)


def test_every_label_has_its_own_threshold():
    model = loaded(
        Voxelwise([[1.0], [1.0]], [0.0, 0.0]),
        output={"activation": "sigmoid", "thresholds": {"Ball": 0.6, "Dim ball": 0.7}},
        inputs=[{"name": "image"}],
    )
    share = 1 / (1 + np.exp(-VOLUME.array))
    assert np.array_equal(model.predict(VOLUME).masks, np.stack([share >= 0.6, share >= 0.7]))


def test_two_inputs_are_two_channels_in_the_manifests_order():
    second = VOLUME.like(1 - VOLUME.array**2)
    model = loaded(
        Voxelwise([[0.0, 0.0], [30.0, -30.0]], [0.0, 0.0]),
        labels=[{"number": 1, "name": "Brighter"}],
        inputs=[{"name": "T1"}, {"name": "T2"}],
    )
    found = model.predict(VOLUME, others=[second])
    assert np.array_equal(found.label_map == 1, VOLUME.array > second.array)
    with pytest.raises(PredictionError, match=r"takes 2 images \(T1, T2\), and 1 were given"):
        model.predict(VOLUME)


def test_what_is_cropped_is_the_same_of_every_input():
    dark = np.zeros(SHAPE, dtype=np.float32)
    here, there = dark.copy(), dark.copy()
    here[2:5, 3:9, 4:12], there[4:9, 3:9, 4:15] = 1.0, 1.0
    model = loaded(
        Voxelwise([[0.0, 0.0], [0.0, 30.0]], [0.0, -15.0]),
        labels=[{"number": 1, "name": "Second"}],
        inputs=[{"name": "a", "smallest": [2, 2, 2]}, {"name": "b"}],
        preprocessing=[{"name": "crop_foreground", "above": 0.5}],
    )
    found = model.predict(VOLUME.like(here), others=[VOLUME.like(there)])
    assert np.array_equal(found.label_map == 1, there == 1)


def test_the_uncertainty_map_lies_on_the_image_and_names_its_method():
    """Two members that agree on the left and contradict each other on the right: one bit of mutual information."""
    side = np.zeros(SHAPE, dtype=np.float32)
    side[:, :, 10:] = 1.0
    model = loaded(
        Voxelwise([[0.0], [60.0]], [-30.0, 0.0]),
        Voxelwise([[0.0], [-60.0]], [-30.0, 0.0]),
        labels=[{"number": 1, "name": "Right"}],
        inputs=[{"name": "image"}],
        members=[{"network": ball_manifest()["network"]}] * 2,
        inference={"window": list(SHAPE), "uncertainty": "mutual_information"},
    )
    found = model.predict(VOLUME.like(side))
    (made,) = found.maps
    assert (made.kind, made.quantity, made.unit) == ("uncertainty", "mutual_information", "bit")
    assert made.volume.array[:, :, 10:] == pytest.approx(1.0, abs=1e-3)
    assert made.volume.array[:, :, :10] == pytest.approx(0.0, abs=1e-3)
    assert found.uncertainty["method"] == "2 members"


def test_voxels_longer_than_the_model_knows_are_refused():
    model = loaded(Fixed(0.0, 1.0), task="classification", inputs=[{"name": "image", "anisotropy": 1.5}])
    with pytest.raises(PredictionError, match=r"2×1×1 mm \(z, y, x\), 2\.0 times as long as wide; .* at most 1\.5"):
        model.predict(VOLUME)
    assert loaded(Fixed(0.0, 1.0), task="classification", inputs=[{"name": "image", "anisotropy": 2.0}]).predict(VOLUME)


def test_passes_with_dropout_need_a_dropout_layer():
    manifest = check_manifest(ball_manifest(inference={"window": [12, 16, 20], "dropout": 5}))
    with pytest.raises(PredictionError, match="no dropout layer"):
        engine.check_dropout(manifest, [Fixed(0.0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "regression"}, "activation is 'softmax'"),
        ({"output": {"activation": "sigmoid", "thresholds": {"Nothing": 0.5}}}, "thresholds must give names of labels"),
        ({"inference": {"window": [1, 4, 4], "slices": 4}}, "slices is 4; it must be an odd number"),
        ({"inference": {"window": [4, 4, 4], "slices": 3}}, "slices is for networks in 2-D"),
        ({"inference": {"window": [4, 4, 4], "uncertainty": "variance"}}, "needs several answers"),
        ({"inference": {"window": [4, 4, 4], "uncertainty": "guess"}}, "uncertainty is 'guess'"),
        ({"inputs": [{"name": "a"}, {"name": "A"}]}, "name of its own"),
        ({"inputs": [{"name": "a", "series": {"regex": "x"}}]}, "series takes words"),
        ({"inputs": [{"name": "a", "series": {"attributes": {"Nonsense": ["x"]}}}]}, "no DICOM keyword"),
        ({"inputs": [{"name": "a", "anisotropy": 0.5}]}, "anisotropy must be a number from 1"),
        (
            {"inputs": [{"name": "a", "preprocessing": [{"name": "resample", "spacing": [1, 1, 1]}]}]},
            "changes the grid",
        ),
        ({"members": [{"network": {"name": "unet"}}]}, "two or more"),
    ],
)
def test_a_manifest_that_cannot_be_run_names_its_key(changes, words):
    with pytest.raises(BundleError, match=words):
        check_manifest(ball_manifest(**changes))
