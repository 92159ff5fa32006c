"""What a search may vary, and what is refused with words."""

from __future__ import annotations

import pytest

from inference.errors import ConfigError
from inference.training import config as configuration
from inference.tuning import space
from tests.inference.class_factory import CONFIG as SHAPES

BASE = """
name = "balls"
[training]
patch = [16, 16, 16]
[search]
trials = 5
"""


def test_ranges_and_choices_are_read_with_their_kinds_and_nested_tables_are_dotted_keys():
    config, search = space.parse(
        BASE
        + """
[search.space]
training.learning_rate = { low = 1e-4, high = 1e-1, log = true }
training.batch_size = { low = 1, high = 4 }
training.patch = [[16, 16, 16], [32, 32, 32]]
"network.dropout" = { low = 0.0, high = 0.4 }
[search.space.augmentation]
rotation = { low = 0, high = 30, step = 5 }
"""
    )
    assert (search["trials"], search["prune"]) == (5, True)
    assert space.check(config, search) == search
    assert search["space"]["training.learning_rate"] == {
        "low": 1e-4, "high": 0.1, "log": True, "step": None, "whole": False,
    }  # fmt: skip
    assert search["space"]["training.batch_size"]["whole"] is True
    assert search["space"]["augmentation.rotation"]["whole"] is False  # a number of degrees, not a count
    assert search["space"]["training.patch"] == {"choices": [[16, 16, 16], [32, 32, 32]]}
    assert set(search["space"]) >= {"network.dropout"}


def test_the_learning_rate_is_looked_for_with_the_same_file():
    text = BASE + '[search.space]\ntraining.loss = ["dice", "dice_ce"]'
    assert space.base(text) == space.parse(text)[0]


def test_a_trial_is_the_configuration_with_other_values_and_the_window_goes_with_the_patch():
    config, search = space.parse(BASE + '[search.space]\ntraining.loss = ["dice", "dice_ce"]')
    made = space.changed(config, {"training.patch": [32, 32, 32], "network.dropout": 0.25, "training.loss": "dice"})
    assert made["inference"]["window"] == [32, 32, 32]
    assert made["network"]["parameters"]["dropout"] == 0.25
    assert config["training"]["patch"] == [16, 16, 16]
    assert search["space"]["training.loss"] == {"choices": ["dice", "dice_ce"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "search: missing; a table"),
        ("[search.space]\ntraining.seed = [1, 2, 3]", "a lucky seed says nothing"),
        ("[search.space]\ntraining.learning_rates = [1, 2]", "only keys of training, augmentation, network"),
        ("[search.space]\npreprocessing.lower = [1, 2]", "only keys of training, augmentation, network"),
        ("[search.space]\ntraining.learning_rate = { low = 1, high = 0.1 }", "low smaller than high"),
        ("[search.space]\ntraining.learning_rate = { low = 0, high = 0.1, log = true }", "needs a low above 0"),
        ("[search.space]\ntraining.learning_rate = { low = 1e-4, high = 100 }", "100: training.learning_rate: 100"),
        ('[search.space]\ntraining.loss = ["dice", "mse"]', "'mse': training.loss: 'mse' is not allowed"),
        ("[search.space]\ntraining.patch = [[16, 16, 16], [9, 16, 16]]", "multiples of 8"),
        ("[search.space]\ntraining.loss = ['dice']", "two choices at least"),
        ("trials = 0\n[search.space]\ntraining.loss = ['dice', 'dice_ce']", "from 1 to 1000"),
        ('[network]\nname = "nnunet"\n[search.space]\ntraining.loss = ["dice", "dice_ce"]', "still plans itself"),
    ],
)
def test_wrong_spaces(text, words):
    base = BASE.replace("trials = 5\n", "") if "trials" in text else BASE
    if "[network]" in text:
        base, text = base.replace("[search]\ntrials = 5\n", ""), text
    if not text:
        base = base.replace("[search]\ntrials = 5\n", "")
    with pytest.raises(ConfigError, match=words):
        space.parse(base + text)


def test_on_frozen_features_only_what_changes_something_can_be_varied():
    frozen = {**SHAPES["training"], "strategy": "frozen", "weights": "resnet.safetensors"}
    config = configuration.check({**SHAPES, "training": frozen})
    with pytest.raises(ConfigError, match=r"changes nothing on frozen features; vary training\.regularisation"):
        space.check(config, {"space": {"training.learning_rate": [0.1, 0.2]}})
    assert space.check(config, {"space": {"training.regularisation": [0.1, 0.2]}})["trials"] == 20
