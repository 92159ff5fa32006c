from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.cohorts.errors import CohortError
from studies.cohorts.models import Split
from studies.cohorts.splits import DEFAULT_FRACTIONS, allot

TEN = [f"P{n}" for n in range(10)]


def test_ten_patients_split_seven_one_two():
    assert Counter(allot(TEN, DEFAULT_FRACTIONS, seed=1).values()) == {"train": 7, "validation": 1, "test": 2}


def test_three_patients_give_one_to_each_side():
    assert sorted(allot(TEN[:3], DEFAULT_FRACTIONS, seed=1).values()) == ["test", "train", "validation"]


def test_the_order_of_patients_does_not_matter_and_the_seed_does():
    assert allot(TEN, DEFAULT_FRACTIONS, 1) == allot(TEN[::-1], DEFAULT_FRACTIONS, 1)
    assert any(allot(TEN, DEFAULT_FRACTIONS, 1) != allot(TEN, DEFAULT_FRACTIONS, seed) for seed in (2, 3))


@given(count=st.integers(3, 200), train=st.floats(0.01, 0.97), validation=st.floats(0.01, 0.5), seed=st.integers(0, 99))
def test_every_patient_is_on_one_side_and_no_side_is_empty(count, train, validation, seed):
    validation = min(validation, 0.99 - train)
    fractions = {"train": train, "validation": validation, "test": 1 - train - validation}
    keys = [str(n) for n in range(count)]
    allotted = allot(keys, fractions, seed)
    assert set(allotted) == set(keys)
    sizes = Counter(allotted.values())
    assert set(sizes) == {"train", "validation", "test"}
    assert all(abs(sizes[side] - fraction * count) < 2 for side, fraction in fractions.items())


def test_a_test_only_cohort_may_hold_one_patient():
    assert allot(["P1"], {"train": 0, "test": 1.0}, seed=0) == {"P1": Split.TEST}


def test_one_patient_cannot_be_split():
    with pytest.raises(CohortError, match="1 patient;") as refused:
        allot(["P1"], DEFAULT_FRACTIONS, seed=1)
    assert refused.value.code == "too_few_patients"


@pytest.mark.parametrize(
    "fractions",
    [
        {},
        {"train": 0.7},
        {"train": 1.2, "test": -0.2},
        {"train": 0.5, "holdout": 0.5},
        {"train": float("nan")},
        {"": 1},
    ],
)
def test_fractions_that_make_no_sense_are_refused(fractions):
    with pytest.raises(CohortError) as refused:
        allot(TEN, fractions, seed=1)
    assert refused.value.code == "fractions"
