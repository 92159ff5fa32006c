"""Training a detector: lesions as a map, learning, resuming, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.errors import ConfigError, TrainingError
from inference.imaging import boxes
from inference.training import config as configuration
from inference.training import detection
from inference.training.data import PreparedCase
from tests.inference.training.test_fit import Watch

NAMES = ["Bright", "Dark"]
RAW = {
    "name": "blocks",
    "task": "detection",
    "network": {"channels": [8, 8, 8, 8], "pyramid": 8, "depth": 1},
    "training": {
        "patch": [16, 32, 32],
        "batch_size": 2,
        "samples_per_case": 2,
        "foreground_share": 0.5,
        "epochs": 2,
        "learning_rate": 0.01,
        "averaging": 0.9,
        "seed": 3,
    },
}


def settings(**training) -> configuration.Config:
    return configuration.check({**RAW, "training": {**RAW["training"], **training}})


def case(seed: int, shape=(16, 32, 40)) -> PreparedCase:
    """A bright and a dark block of 8 voxels in noise; the map has them as lesion 0 and 1 of class 0 and 1."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 0.1, shape)
    places = []
    for value, left in ((2.0, 2), (-2.0, 22)):
        low = np.array([random.integers(1, 7), random.integers(2, 22), left + random.integers(0, 8)])
        image[tuple(slice(a, a + 8) for a in low)] = value
        places.append(np.stack([low, low + 8]) - 0.5)
    painted = boxes.paint(places, [1 + 0 * 2 + 0, 1 + 1 * 2 + 1], shape)
    return PreparedCase(f"C-{seed}", torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(painted))


def test_a_map_of_lesions_gives_boxes_and_classes_also_of_what_a_patch_cuts_off():
    painted = boxes.paint(
        [np.array([[1.5, 2.5, 3.5], [9.5, 10.5, 11.5]]), np.array([[3.5, 20.5, 29.5], [11.5, 28.5, 39.5]])],
        [1 + 0 * 2 + 0, 1 + 1 * 2 + 1],
        (16, 32, 40),
    )
    found, numbers = detection.boxes_of(torch.from_numpy(painted)[:, :, :36], 2, 3)
    assert found.tolist() == [[2, 3, 4, 10, 11, 12], [4, 21, 30, 12, 29, 36]]
    assert numbers.tolist() == [0, 1]
    flat, _ = detection.boxes_of(torch.from_numpy(painted)[6:7], 2, 2)
    assert flat.tolist() == [[3, 4, 11, 12], [21, 30, 29, 40]]
    none, _ = detection.boxes_of(torch.zeros(4, 4, 4, dtype=torch.uint8), 2, 3)
    assert none.shape == (0, 6)


def test_it_learns_to_find_the_blocks_and_to_tell_them_apart(tmp_path):
    config = settings(epochs=12, validate_every=12)
    watch = Watch()
    trained = detection.train(
        config, NAMES, [case(n) for n in range(6)], [case(n) for n in range(20, 24)], tmp_path, watch
    )
    # Mean sensitivity at 1/8 to 8 false positives per image; without learning it is near 0.
    assert {name: values[0] > 0.7 for name, values in trained.validation.items()} == {"Bright": True, "Dark": True}
    assert [step for step, _ in watch.metrics["val_froc/Bright"]] == [12]
    assert any("validation FROC score" in line for line in watch.lines)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    config = settings(epochs=3)
    sides = [case(0), case(1)], [case(2)]
    unbroken = detection.train(config, NAMES, *sides, tmp_path / "one", Watch())
    with pytest.raises(InterruptedError):
        detection.train(config, NAMES, *sides, tmp_path / "two", Watch(stop_at=6))
    resumed = detection.train(config, NAMES, *sides, tmp_path / "two", Watch())
    for name, value in unbroken.weights.items():
        assert torch.equal(value, resumed.weights[name]), name


def test_a_label_without_a_lesion_in_training_is_refused_by_name():
    with pytest.raises(TrainingError) as caught:
        detection.check_cases([case(0)], [], patch=[16, 32, 32], structures=["Bright", "Dark", "Absent"])
    assert "Absent" in caught.value.cause


def test_few_lesions_are_told():
    said = detection.check_cases([case(0)], [], patch=[16, 32, 32], structures=NAMES)
    assert any("1 of Bright, 1 of Dark in 1 cases" in line for line in said)


def test_a_detector_has_its_own_network_and_loss():
    made = configuration.check(RAW)
    assert (made["network"]["name"], made["training"]["loss"]) == ("detector", "focal_iou")
    with pytest.raises(ConfigError, match="focal_iou"):
        configuration.check({**RAW, "training": {**RAW["training"], "loss": "dice"}})
    with pytest.raises(ConfigError, match="detector"):
        configuration.check({**RAW, "network": {"name": "unet"}})
    with pytest.raises(ConfigError, match="multiples of 16"):
        configuration.check({**RAW, "training": {**RAW["training"], "patch": [12, 32, 32]}})
