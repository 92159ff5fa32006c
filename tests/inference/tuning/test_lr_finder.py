"""The range test on curves with a known answer, and on a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.errors import TrainingError
from inference.training import config as configuration
from inference.training.sets import Sets
from inference.tuning.lr_finder import range_test, smooth, suggest
from tests.inference.models_factory import CONFIG, LABELS
from tests.inference.training.test_fit import Watch, cases


def test_the_rate_of_steepest_descent_is_suggested_not_that_of_the_smallest_loss():
    rates = np.geomspace(1e-6, 1, 100)
    falls = 1 - 0.8 / (1 + np.exp(-3 * np.log(rates / 1e-3)))  # steepest at 1e-3 by construction
    runs_away = falls + np.where(rates > 1e-1, 50 * (rates - 1e-1), 0)
    rate, reason = suggest(rates, runs_away)
    assert rate == pytest.approx(1e-3, rel=0.2)
    assert reason == ""


def test_smoothing_keeps_constants_and_does_not_lag_behind_the_rate():
    assert smooth([3.0] * 20) == pytest.approx([3.0] * 20)
    falls = 1 / (1 + np.exp((np.arange(100) - 40) / 4))  # halfway at step 40
    made = np.asarray(smooth(list(falls)))
    assert int(np.gradient(made).argmin()) == 40


@pytest.mark.parametrize(
    ("losses", "words"),
    [([1.0] * 60, "never fell"), (list(np.linspace(1, 5, 60)), "never fell"), ([1.0] * 5, "5 steps")],
)
def test_where_nothing_is_learned_no_rate_is_suggested_and_the_reason_is_told(losses, words):
    rate, reason = suggest(np.geomspace(1e-6, 1, 60)[: len(losses)], losses)
    assert rate is None
    assert words in reason


def sets_of(config: configuration.Config) -> Sets:
    return Sets(config, list(LABELS), cases(range(4)), [], {}, {})


def test_on_a_network_the_loss_falls_at_the_suggested_rate_and_seeds_decide():
    config = configuration.check({**CONFIG, "training": {**CONFIG["training"], "learning_rate": 1e-3}})
    watch = Watch()
    found = range_test(sets_of(config), config, watch, steps=60)
    assert found.suggested is not None
    assert 1e-4 < found.suggested < 1
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 60
    assert min(found.smoothed) < 0.9 * found.smoothed[0]
    assert watch.checks >= len(found.losses)  # it can be cancelled at every step
    again = range_test(sets_of(config), config, Watch(), steps=60)
    assert again.losses == found.losses


def test_images_that_make_the_loss_no_number_end_with_a_reason():
    config = configuration.check(CONFIG)
    broken = sets_of(config)
    for case in broken.training:
        case.image.fill_(torch.nan)
    found = range_test(broken, config, Watch(), steps=30)
    assert found.suggested is None
    assert "normalise the images" in found.reason


def test_a_batch_that_will_not_fit_into_memory_is_refused_before_the_first_step():
    config = configuration.check(
        {**CONFIG, "training": {**CONFIG["training"], "patch": [1024] * 3, "batch_size": 512, "samples_per_case": 64}}
    )
    watch = Watch()
    with pytest.raises(TrainingError, match="GB of memory"):
        range_test(sets_of(config), config, watch, steps=30)
    assert watch.checks == 0
