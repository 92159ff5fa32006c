"""Comparisons on the same cases, and thresholds, against R, scikit-learn and published numbers."""

from __future__ import annotations

import csv

import pytest

from inference.evaluation.statistics import operating
from inference.evaluation.statistics.paired import accuracy_test, delong_test, holm, mcnemar
from tests.inference.shared import path, reference


@pytest.mark.shared
def test_paired_delong_agrees_with_proc():
    expected = reference("roc_asah.json")["expected"]["paired"]
    with path("reference/roc_asah.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = [int(row["poor"]) for row in rows]
    for entry in expected:
        found = delong_test(truth, *([float(row[entry[side]]) for row in rows] for side in ("a", "b")))
        assert found.estimate == pytest.approx(entry["auc_a"] - entry["auc_b"], abs=1e-10)
        assert (found.lower, found.upper) == pytest.approx(entry["ci95_diff"], abs=1e-8)
        assert found.p == pytest.approx(entry["p"], abs=1e-8)
        assert found.n == 113


def test_scores_that_order_cases_alike_have_no_p():
    found = delong_test([0, 0, 1, 1, 1], [0.1, 0.4, 0.3, 0.8, 0.9], [1, 4, 3, 8, 9])
    assert (found.estimate, found.p, found.lower) == (0.0, None, None)


@pytest.mark.shared
def test_mcnemar_agrees_with_r():
    found = reference("mcnemar_a.json")
    counts = found["inputs"]
    assert mcnemar(counts["a_pos_b_neg"], counts["a_neg_b_pos"]) == pytest.approx(found["expected"]["exact_p"])


def test_accuracies_of_the_same_cases_are_compared_case_by_case():
    """17 cases differ, 13 for the first method: 9 of 120 better, and binom.test(13, 17) of R gives p = 0.04904."""
    a = [True] * 80 + [True] * 13 + [False] * 4 + [False] * 23
    b = [True] * 80 + [False] * 13 + [True] * 4 + [False] * 23
    found = accuracy_test(a, b)
    assert found.estimate == pytest.approx(9 / 120)
    assert found.p == pytest.approx(0.049041748046875)
    assert 0 < found.lower < 9 / 120 < found.upper < 0.15
    same = accuracy_test(a, a)
    assert (same.p, same.lower, same.upper) == (1.0, None, None)
    with pytest.raises(ValueError, match="120 and 2"):
        accuracy_test(a, [True, False])


def test_cases_of_one_patient_are_resampled_together():
    a, b = [True, True, True, False] * 10, [False, False, False, False] * 10
    alone = accuracy_test(a, b)
    together = accuracy_test(a, b, [number // 10 for number in range(40)])
    assert together.estimate == alone.estimate
    assert "4 patients" in together.method


def test_holm_gives_the_numbers_of_r():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.shared
def test_counts_at_a_threshold_agree_with_scikit_learn():
    found = reference("classification_asah.json")
    with path(f"reference/{found['inputs_csv']}").open() as file:
        rows = list(csv.DictReader(file))
    truth_name, score_name = _columns(rows[0])
    point = operating.at(
        [int(row[truth_name]) for row in rows], [float(row[score_name]) for row in rows], found["threshold"]
    )
    expected = found["expected"]
    assert (point.tp, point.fp, point.fn, point.tn) == tuple(expected[key] for key in ("tp", "fp", "fn", "tn"))
    for key, figure in point.figures().items():
        assert figure["estimate"] == pytest.approx(expected[key])
        assert figure["method"] == "Wilson score"


def _columns(row: dict[str, str]) -> tuple[str, str]:
    names = [name for name in row if name not in ("", "id", "_row")]
    truth = next(name for name in names if row[name] in ("0", "1"))
    return truth, next(name for name in names if name != truth)


@pytest.mark.shared
def test_youden_s_threshold_agrees_with_proc():
    """pROC puts a threshold half-way between two scores; the counts on both sides of it are the same."""
    expected = reference("roc_asah.json")["expected"]["auc"]
    with path("reference/roc_asah.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = [int(row["poor"]) for row in rows]
    for name, entry in expected.items():
        scores = [float(row[name]) for row in rows]
        best = operating.youden(truth, scores)
        figures = best.figures()
        assert figures["sensitivity"]["estimate"] == pytest.approx(entry["youden"][0]["sensitivity"])
        assert figures["specificity"]["estimate"] == pytest.approx(entry["youden"][0]["specificity"])
        again = operating.at(truth, scores, entry["youden"][0]["threshold"])
        assert (again.tp, again.fp, again.fn, again.tn) == (best.tp, best.fp, best.fn, best.tn)


def test_sensitivity_at_a_specificity_is_the_best_that_keeps_it():
    truth, scores = [0, 0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.25, 0.7, 0.9]
    point = operating.at_specificity(truth, scores, 0.75)
    assert (point.threshold, point.tp, point.fp) == (0.7, 2, 1)
    assert operating.at_specificity(truth, scores, 1.0).threshold == 0.9
    assert operating.at_specificity([0, 1], [0.9, 0.1], 0.9) is None
    with pytest.raises(ValueError, match="positive and negative"):
        operating.curve([1, 1], [0.1, 0.2])
