"""Every wrong key is named, with what is wrong and what is allowed; a checked configuration is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ConfigError
from inference.training import config

SMALL = """
name = "small"
[training]
patch = [16, 16, 16]
"""
PRESETS = sorted((Path(config.__file__).parent / "presets").glob("*.toml"))


def test_defaults_are_written_out_and_checking_again_changes_nothing():
    made = config.parse(SMALL)
    assert made["network"]["name"] == "unet"
    assert made["network"]["parameters"]["channels"] == [16, 32, 64, 128]
    assert made["inference"]["window"] == [16, 16, 16]
    assert made["training"]["max_minutes"] == 0
    assert config.check(made) == made


def test_settings_may_be_changed_without_touching_the_file(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    made = config.load(file, ["training.epochs = 7", "network={name='segresnet'}", "description='For balls'"])
    assert (made["training"]["epochs"], made["training"]["patch"]) == (7, [16, 16, 16])
    assert (made["network"]["name"], made["description"]) == ("segresnet", "For balls")
    with pytest.raises(ConfigError, match=r"'training\.epochs' is no setting"):
        config.load(file, ["training.epochs"])
    with pytest.raises(ConfigError, match=r"training\.epoch: there is no such key"):
        config.load(file, ["training.epoch=7"])


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(path):
    made = config.load(path)
    assert config.check(made) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\npatch = [16, 16, 16]", "name: missing"),
        (SMALL.replace("small", "no spaces!"), "name: 'no spaces!' is not allowed"),
        (SMALL.replace("[16, 16, 16]", "[16, 16]"), "training.patch: .* three whole numbers"),
        (SMALL.replace("[16, 16, 16]", "[16, 16, 20]"), "multiples of 8"),
        (SMALL + "epochs = 0", "training.epochs: 0 is not allowed; it must be a whole number from 1"),
        (SMALL + "epoch = 5", "training.epoch: there is no such key; allowed are patch"),
        (SMALL + 'loss = "mse"', "one of dice_ce, dice, cross_entropy"),
        (SMALL + "learning_rate = true", "learning_rate: True is not allowed"),
        (SMALL + "learning_rate = nan", "learning_rate: nan is not allowed"),
        (SMALL + '[network]\nname = "vgg"', "no network 'vgg'. Choose from: unet, nnunet, segresnet"),
        (SMALL + '[network]\nname = "vgg16"', "VGG-16 is for classification; for segmentation choose from: unet"),
        (SMALL + "[network]\ndimensions = 2", "it is one slice"),
        ('name = "small"', "training.patch: missing"),
        (SMALL + "[network]\nchannels = [8, 16]", "strides must have one number less"),
        (SMALL + "[network]\nwidth = 3", "does not take 'width'"),
        (SMALL + '[augmentation]\nflip = ["w"]', 'a list out of "x", "y", "z"'),
        (SMALL + '[[preprocessing]]\nname = "blur"', "no step 'blur'"),
        (SMALL + "[inference]\nwindow = [8, 8, 9]", "inference.window is .* multiples of 8"),
        ("colour = 1\n" + SMALL, "colour: there is no such key"),
        ("name = ", "not TOML"),
    ],
)
def test_wrong_keys(text, words):
    with pytest.raises(ConfigError, match=words):
        config.parse(text)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        config.parse('task = "magic"\n[training]\npatch = [0, 1, 1]\nepochs = -1')
    assert len(caught.value.problems) == 4  # name, task, patch, epochs


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "none.toml")
