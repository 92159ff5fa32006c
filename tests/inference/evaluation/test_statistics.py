"""Intervals against published numbers and other implementations."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy import stats

from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.statistics.proportions import wilson
from inference.evaluation.statistics.roc import auc, delong_covariance, delong_interval, delong_variance
from tests.inference.shared import path, reference


@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [  # Newcombe, Stat Med 1998;17:857, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_numbers(successes, n, lower, upper):
    found = wilson(successes, n)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=5e-5)
    assert found.n == n
    assert found.estimate == successes / n


@pytest.mark.shared
def test_wilson_agrees_with_r():
    for row in reference("proportion_ci_newcombe.json")["expected"]:
        found = wilson(row["x"], row["n"])
        assert (found.lower, found.upper) == pytest.approx(row["wilson"], abs=1e-9)


def test_wilson_at_the_ends_and_out_of_range():
    assert wilson(0, 5).lower == 0
    assert wilson(5, 5).upper == 1
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(6, 5)


def test_auc_counts_pairs_and_halves_ties():
    # Positives 0.35, 0.8, 0.9 against negatives 0.1, 0.35, 0.4: 7 pairs won, one tied, one lost.
    assert auc([0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.35, 0.9]) == pytest.approx(7.5 / 9)
    with pytest.raises(ValueError, match="positive and negative"):
        auc([1, 1], [0.1, 0.2])


def test_delong_variance_of_a_small_table():
    """pROC 1.18 on the same six cases: AUC 0.8333, variance 1/27, interval 0.456 to 1."""
    truth, scores = [0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.35, 0.9]
    assert delong_variance(truth, scores) == pytest.approx(1 / 27)
    found = delong_interval(truth, scores)
    assert (found.lower, found.upper) == pytest.approx((0.456138088641276, 1.0))


def test_perfect_separation_has_no_interval():
    found = delong_interval([0, 0, 1, 1], [1, 2, 3, 4])
    assert (found.estimate, found.lower, found.upper) == (1.0, None, None)
    chance = delong_interval([0, 0, 1, 1], [1, 1, 1, 1])
    assert (chance.estimate, chance.lower, chance.upper) == (0.5, None, None)


@pytest.mark.shared
def test_delong_agrees_with_proc():
    found = reference("roc_asah.json")
    with path("reference/roc_asah.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = [int(row["poor"]) for row in rows]
    scores = {name: [float(row[name]) for row in rows] for name in found["expected"]["auc"]}
    for name, expected in found["expected"]["auc"].items():
        interval = delong_interval(truth, scores[name])
        assert interval.estimate == pytest.approx(expected["auc"], abs=1e-8)
        assert delong_variance(truth, scores[name]) == pytest.approx(expected["delong_var"], abs=1e-8)
        assert (interval.lower, interval.upper) == pytest.approx(expected["delong_ci95"], abs=1e-8)
    for pair in found["expected"]["paired"]:
        covariance = delong_covariance(truth, [scores[pair["a"]], scores[pair["b"]]])
        assert covariance[0, 1] == pytest.approx(pair["cov"], abs=1e-8)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    values = np.random.default_rng(5).gamma(2.0, size=40)
    found = bootstrap_mean(values, method=method, seed=1)
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method=method, rng=np.random.default_rng(2)
    ).confidence_interval
    width = other.high - other.low
    assert found.estimate == pytest.approx(values.mean())
    assert (found.lower, found.upper) == pytest.approx((other.low, other.high), abs=0.03 * width)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3).lower != bootstrap_mean(values, seed=4).lower


def test_patients_are_resampled_not_cases():
    """Ten copies of each patient's value: the interval must be as wide as that of the patients alone."""
    values = np.random.default_rng(0).normal(size=30)
    alone = bootstrap_mean(values, method="percentile", seed=1)
    copied = bootstrap_mean(
        np.repeat(values, 10), patients=list(np.repeat(np.arange(30), 10)), method="percentile", seed=1
    )
    assert (copied.lower, copied.upper) == pytest.approx((alone.lower, alone.upper))
    assert copied.n == 300


def test_one_patient_has_no_interval():
    found = bootstrap_mean([0.9, 0.8], patients=["a", "a"])
    assert found.estimate == pytest.approx(0.85)
    assert found.lower is None
    with pytest.raises(ValueError, match="0 values"):
        bootstrap_mean([])
