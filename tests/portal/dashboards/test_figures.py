import random

import pytest

from inference.evaluation.statistics.roc import auc
from portal.dashboards.figures import step
from portal.workbench.roc import roc_points


def test_roc_of_four_cases_by_hand():
    # scores 0.9+ 0.8− 0.7+ 0.1−: up, right, up, right
    x, y, thresholds = roc_points([True, False, True, False], [0.9, 0.8, 0.7, 0.1])
    assert x == [0, 0, 0.5, 0.5, 1]
    assert y == [0, 0.5, 0.5, 1, 1]
    assert thresholds[1:] == [0.9, 0.8, 0.7, 0.1]


def test_equal_scores_make_one_step():
    x, y, _ = roc_points([True, False, True], [0.5, 0.5, 0.5])
    assert (x, y) == ([0, 1], [0, 1])


def test_area_below_the_curve_is_the_auc_of_the_statistics():
    source = random.Random(7)
    truth = [source.random() < 0.4 for _ in range(200)]
    scores = [round(source.gauss(0.5 + 0.3 * positive, 0.3), 1) for positive in truth]  # many ties
    x, y, _ = roc_points(truth, scores)
    area = sum((x[i] - x[i - 1]) * (y[i] + y[i - 1]) / 2 for i in range(1, len(x)))
    assert area == pytest.approx(auc(truth, scores), abs=1e-12)


@pytest.mark.parametrize("truth", [[True, True], [False, False]])
def test_one_class_has_no_curve(truth):
    with pytest.raises(ValueError, match="positive and negative"):
        roc_points(truth, [0.1, 0.2])


def test_colour_steps_rise_with_the_value():
    steps = [step(value / 100) for value in range(101)]
    assert steps == sorted(steps)
    assert (steps[0], steps[100]) == (1, 7)
