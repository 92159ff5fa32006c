"""Proposals against a known landscape."""

from __future__ import annotations

import math
import random

from inference.tuning.tuner import Past, Proposal

SEARCH = {
    "prune": True,
    "space": {
        "training.learning_rate": {"low": 1e-5, "high": 1.0, "log": True, "step": None, "whole": False},
        "training.patch": {"choices": [[8, 8, 8], [16, 16, 16]]},
        "training.batch_size": {"low": 1, "high": 8, "log": False, "step": None, "whole": True},
    },
}


def landscape(values: dict) -> float:
    """Best at a learning rate of 0.01 with the large patch."""
    return -abs(math.log10(values["training.learning_rate"]) + 2) - (values["training.patch"] == [8, 8, 8])


def searched(trials: int, history: list[Past] | None = None) -> list[Past]:
    history = list(history or [])
    for number in range(len(history) + 1, trials + 1):
        values = Proposal(SEARCH, history, seed=3, number=number).values
        history.append(Past(values, landscape(values)))
    return history


def test_it_finds_the_summit_better_than_chance():
    found = searched(40)
    assert all(isinstance(past.values["training.batch_size"], int) for past in found)
    assert all(1 <= past.values["training.batch_size"] <= 8 for past in found)
    chance = random.Random(0)
    drawn = [
        landscape(
            {"training.learning_rate": 10 ** chance.uniform(-5, 0), "training.patch": chance.choice([[8] * 3, 0])}
        )
        for _ in range(2000)
    ]
    late = [past.value for past in found[20:]]
    assert sum(late) / len(late) > sum(drawn) / len(drawn) + 0.5
    assert max(past.value for past in found) > -0.3


def test_an_interrupted_search_proposes_what_an_unbroken_one_does():
    whole = searched(12)
    assert searched(12, whole[:7]) == whole
    under_way = whole[8].values
    assert Proposal(SEARCH, whole[:8], seed=3, number=9, values=under_way).values == under_way


def test_a_trial_below_the_median_is_given_up_and_one_above_is_not():
    history = [
        Past({"training.learning_rate": 0.01, "training.patch": [8, 8, 8], "training.batch_size": 2}, 0.5 + n / 100,
             curve={1: 0.1, 2: 0.4 + n / 100, 3: 0.5 + n / 100})
        for n in range(6)
    ]  # fmt: skip
    good, bad = (Proposal(SEARCH, history, seed=3, number=7) for _ in range(2))
    assert [good.report(step, value) for step, value in ((1, 0.2), (2, 0.6), (3, 0.7))] == [False] * 3
    assert bad.report(1, 0.0) is False  # the first validation decides nothing
    assert bad.report(2, 0.1) is True
    never = Proposal({**SEARCH, "prune": False}, history, seed=3, number=7)
    assert never.report(2, 0.0) is False
