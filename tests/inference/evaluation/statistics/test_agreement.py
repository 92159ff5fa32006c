"""Agreement coefficients against published examples and R."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from inference.evaluation.statistics import agreement

REFERENCE = Path(__file__).resolve().parents[5] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference values beside the checkout")


def reference(name: str) -> dict:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def test_cohen_1960_worked_example():
    # Cohen 1960: 200 joint judgements in three categories, published κ = 0.492
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(table[i][j])]
    first, second = zip(*pairs, strict=True)
    result = agreement.cohen_kappa(first, second)
    assert result.kappa == pytest.approx(0.492, abs=5e-4)
    assert result.n == 200


def test_two_by_two_by_hand():
    # 20 both yes, 5 yes/no, 10 no/yes, 15 both no: po = 0.7, pe = 0.5, κ = 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert agreement.cohen_kappa(first, second).kappa == pytest.approx(0.4)


def test_missing_ratings_are_left_out_pairwise():
    result = agreement.cohen_kappa([1, 2, None, 1, 2], [1, 2, 1, None, 1])
    assert result.n == 3
    assert result.kappa == agreement.cohen_kappa([1, 2, 2], [1, 2, 1]).kappa


def test_no_variation_is_undefined_not_perfect():
    assert agreement.cohen_kappa([1, 1, 1], [1, 1, 1]).kappa is None
    assert agreement.fleiss_kappa([[1, 1], [1, 1]]) is None
    assert agreement.cohen_agreement([1, 1], [1, 1]).estimate is None


def test_no_shared_case():
    assert agreement.cohen_agreement([1, None], [None, 1]) == agreement.Agreement(None, None, None, 0, "Cohen κ")


def test_distance_counts_on_the_whole_scale():
    # Values 1, 2 and 5 only: without the scale 1…5 the step from 2 to 5 would weigh like that from 1 to 2.
    first, second = [1, 2, 5, 5], [1, 5, 5, 2]
    full = agreement.cohen_kappa(first, second, weights="linear", categories=[1, 2, 3, 4, 5])
    # Observed distance 6/4, and that of all pairings under chance; κ = 1 − observed / expected
    expected = sum(abs(a - b) for a in first for b in second) / 16
    assert full.kappa == pytest.approx(1 - 1.5 / expected)
    assert agreement.cohen_kappa(first, second, weights="linear").kappa != pytest.approx(full.kappa)
    with pytest.raises(ValueError, match="not among the categories"):
        agreement.cohen_kappa([7], [1], categories=[1, 2])


def test_fleiss_table_of_the_textbook():
    # The example that many textbooks carry: 10 subjects, 14 raters, 5 categories, κ = 0.210
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    ratings = [[category for category, count in enumerate(row) for _ in range(count)] for row in counts]
    assert agreement.fleiss_kappa(ratings) == pytest.approx(0.210, abs=5e-4)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # Two readers who copy the truth with probability 0.7, else guess between two equal classes: κ = 0.49
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(120):
        truth = rng.integers(0, 2, 80)
        first = np.where(rng.random(80) < 0.7, truth, rng.integers(0, 2, 80))
        second = np.where(rng.random(80) < 0.7, truth, rng.integers(0, 2, 80))
        result = agreement.cohen_agreement(first.tolist(), second.tolist(), draws=400, seed=trial)
        covered += result.lower <= 0.49 <= result.upper
    assert 105 <= covered <= 120  # 95 % of 120 is 114; binomial limits at about 4 standard deviations


def test_mean_and_median_carry_interval_and_n():
    mean = agreement.mean_agreement([0.8, 0.9, 1.0], name="Dice")
    assert (round(mean.estimate, 6), mean.n) == (0.9, 3)
    assert 0.8 <= mean.lower < 0.9 < mean.upper <= 1.0
    median = agreement.median_agreement([60, 120, 600], name="time")
    assert median.estimate == 120
    assert agreement.mean_agreement([0.5], name="Dice").lower is None


@pytest.mark.shared
@needs_reference
@pytest.mark.parametrize(
    ("ours", "theirs"), [("unweighted", "unweighted"), ("linear", "equal"), ("quadratic", "squared")]
)
def test_cohen_against_irr(ours, theirs):
    data = reference("kappa_anxiety")
    first, second, _ = zip(*data["inputs"]["ratings"], strict=True)
    result = agreement.cohen_kappa(first, second, weights=ours)
    expected = data["expected"]["cohen"][theirs]
    assert result.kappa == pytest.approx(expected["kappa"], abs=1e-9)
    assert result.kappa / result.standard_error_under_chance == pytest.approx(expected["z"], abs=1e-6)


@pytest.mark.shared
@needs_reference
def test_cohen_interval_against_psych():
    data = reference("kappa_anxiety")
    first, second, _ = zip(*data["inputs"]["ratings"], strict=True)
    result = agreement.cohen_kappa(first, second)
    lower, _, upper = data["expected"]["cohen"]["psych_ci95"]["unweighted"]
    assert result.kappa - 1.959964 * result.standard_error == pytest.approx(lower, abs=1e-6)
    assert result.kappa + 1.959964 * result.standard_error == pytest.approx(upper, abs=1e-6)


@pytest.mark.shared
@needs_reference
def test_fleiss_against_irr():
    data = reference("kappa_anxiety")
    assert agreement.fleiss_kappa(data["inputs"]["ratings"]) == pytest.approx(data["expected"]["fleiss"]["kappa"])
    data = reference("agreement_fleiss1971")
    with (REFERENCE / data["inputs_csv"]).open() as file:
        ratings = list(csv.reader(file))[1:]
    assert agreement.fleiss_kappa(ratings) == pytest.approx(data["expected"]["kappa"], abs=1e-9)
    result = agreement.fleiss_agreement(ratings)
    assert result.lower < 0.430 < result.upper
    assert result.n == 30


@pytest.mark.shared
@needs_reference
@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
def test_krippendorff_2011(level):
    data = reference("krippendorff_2011")
    units = list(zip(*data["inputs"]["ratings"], strict=True))
    assert agreement.krippendorff_alpha(units, level=level) == pytest.approx(data["expected"][level], abs=1e-9)
