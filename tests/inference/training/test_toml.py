"""The configuration as text: what is written is read back as the same configuration."""

from __future__ import annotations

import tomllib

import pytest

from inference.training import config, toml
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.models_factory import CONFIG as BALLS
from tests.inference.training.test_config import PRESETS

MORE = {
    "name": "awkward",
    "description": 'quotes " and \\ backslash, tab\t, Ärzte \x7f',
    "network": {"name": "nnunet", "features": 16},
    "preprocessing": [{"name": "resample", "spacing": [0, 1, 0.5]}],
    "training": {"loss": "tversky"},
    "augmentation": {"flip": ["x", "z"]},
}


@pytest.mark.parametrize(
    "given",
    [BALLS, SHAPES, MORE, {**MORE, "name": "bare", "preprocessing": []}, *map(config.load, PRESETS)],
    ids=lambda given: given["name"],
)
def test_what_is_written_is_read_back_as_the_same(given):
    checked = config.check(given)
    assert config.parse(toml.text(checked)) == checked
    assert config.check(checked) == checked


def test_defaults_are_left_out():
    written = tomllib.loads(toml.text(config.check(SHAPES)))
    assert written["network"] == {"name": "cnn", "dimensions": 2, "channels": [4, 8], "hidden": 8}
    assert set(written["training"]) == set(SHAPES["training"])
    assert "inference" not in written
