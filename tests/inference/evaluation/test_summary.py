"""The summary of constructed cases."""

from __future__ import annotations

import numpy as np
import pytest

from inference.evaluation.summary import CaseFigures, compare, summarise


def case(
    number: int, *, present: bool = True, predicted: bool = True, score: float | None = 0.9, **values
) -> CaseFigures:
    return CaseFigures(f"C-{number}", number, present, predicted, score, values)


def test_means_carry_interval_n_and_method():
    found = summarise([case(k, dice=value) for k, value in enumerate([0.8, 0.9, 0.7, 0.8])])["dice"]
    assert found["estimate"] == pytest.approx(0.8)
    assert 0.7 <= found["lower"] < 0.8 < found["upper"] <= 0.9
    assert found["n"] == 4
    assert found["method"].startswith("BCa bootstrap over 4 patients")


def test_undefined_cases_are_left_out_and_counted():
    found = summarise([case(1, dice=0.5), case(2, dice=None, present=False), case(3, dice=0.7)])
    assert found["dice"]["estimate"] == pytest.approx(0.6)
    assert (found["dice"]["n"], found["dice"]["undefined"]) == (2, 1)
    assert found["hd95_mm"]["estimate"] is None
    assert found["hd95_mm"]["reason"] == "undefined in every case"


def test_case_level_figures_are_counted():
    cases = [case(k, present=True, predicted=k < 3) for k in range(4)]
    cases += [case(k, present=False, predicted=k == 4, score=0.2) for k in range(4, 9)]
    found = summarise(cases)
    assert found["case_sensitivity"]["estimate"] == 3 / 4
    assert found["case_sensitivity"]["n"] == 4
    assert found["case_specificity"]["estimate"] == 4 / 5
    assert found["case_specificity"]["method"] == "Wilson score"


def test_auc_of_the_case_score():
    scores = [(True, 0.8), (True, 0.35), (True, 0.9), (False, 0.1), (False, 0.4), (False, 0.35)]
    found = summarise([case(k, present=p, score=s) for k, (p, s) in enumerate(scores)])["auc"]
    assert found["estimate"] == pytest.approx(7.5 / 9)  # pROC gives the same area and the interval below
    assert (found["lower"], found["upper"]) == pytest.approx((0.456138088641276, 1.0))
    assert found["method"] == "DeLong"


@pytest.mark.parametrize(
    ("present", "reason"),
    [([True] * 3, "all 3 cases hold this structure"), ([False] * 3, "none of the 3 cases holds this structure")],
)
def test_an_auc_that_does_not_exist_says_why(present, reason):
    found = summarise([case(k, present=p) for k, p in enumerate(present)])["auc"]
    assert found["estimate"] is None
    assert found["reason"] == reason


def test_without_scores_there_is_no_auc():
    assert summarise([case(1, score=None)])["auc"]["reason"] == "the model gives no scores"


def test_figures_of_one_case():
    truth, found = np.zeros((4, 10, 10), dtype=bool), np.zeros((4, 10, 10), dtype=bool)
    truth[1:3, 2:6, 2:6] = True  # 32 voxels
    found[1:3, 2:6, 4:8] = True  # 32 voxels, 16 of them shared
    values = compare(truth, found, (2.0, 1.0, 1.0))
    assert values["dice"] == pytest.approx(0.5)
    assert values["iou"] == pytest.approx(1 / 3)
    assert values["sensitivity"] == values["precision"] == 0.5
    assert values["volume_reference_ml"] == pytest.approx(0.064)
    assert values["volume_difference_ml"] == pytest.approx(0)
    assert values["hd95_mm"] == pytest.approx(2.0)
    assert (values["tp"], values["fp"], values["fn"], values["tn"]) == (16, 16, 16, 400 - 48)
