"""Overlap and surface metrics against hand-counted masks and against google-deepmind/surface-distance."""

from __future__ import annotations

import numpy as np
import pytest

from inference.evaluation.metrics import overlap
from inference.evaluation.metrics.surface import surface_distances
from inference.evaluation.summary import compare
from tests.inference.shared import reference

# 4 voxels in the reference, 3 predicted, 2 in both, 10 in all.
REFERENCE = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
PREDICTED = np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)


def test_overlap_of_hand_counted_masks():
    counts = overlap.count(REFERENCE, PREDICTED)
    assert counts == overlap.Counts(tp=2, fp=1, fn=2, tn=5)
    assert overlap.dice_of(counts) == pytest.approx(4 / 7)
    assert overlap.iou_of(counts) == pytest.approx(2 / 5)
    assert overlap.sensitivity_of(counts) == 0.5
    assert overlap.precision_of(counts) == pytest.approx(2 / 3)
    assert overlap.specificity_of(counts) == pytest.approx(5 / 6)


def test_empty_masks_follow_the_convention():
    empty = np.zeros(10, dtype=bool)
    both, none_found, none_there = (
        overlap.count(empty, empty),
        overlap.count(REFERENCE, empty),
        overlap.count(empty, PREDICTED),
    )
    assert overlap.dice_of(both) is None
    assert overlap.iou_of(both) is None
    assert overlap.dice_of(none_found) == overlap.dice_of(none_there) == 0
    assert overlap.sensitivity_of(none_there) is None
    assert overlap.precision_of(none_found) is None


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        overlap.count(REFERENCE, PREDICTED[:5])


def test_two_voxels_two_millimetres_apart():
    """Nikolov's own test: single voxels two voxels apart, 1 mm spacing: HD 2 mm, ASSD 1.5 mm."""
    first, second = np.zeros((9, 9, 9), dtype=bool), np.zeros((9, 9, 9), dtype=bool)
    first[3, 4, 4], second[3, 4, 6] = True, True
    distances = surface_distances(first, second, (1, 1, 1))
    assert distances is not None
    assert distances.hausdorff(100) == pytest.approx(2)
    assert distances.hausdorff(95) == pytest.approx(2)
    assert distances.average() == pytest.approx(1.5)
    assert distances.normalised_surface_dice(1) == pytest.approx(0.5)


def test_distances_are_in_millimetres():
    """A slab moved by one slice of 3 mm: everywhere on its faces 3 mm."""
    first, second = np.zeros((12, 20, 20), dtype=bool), np.zeros((12, 20, 20), dtype=bool)
    first[3:6], second[4:7] = True, True
    distances = surface_distances(first, second, (3.0, 0.5, 0.5))
    assert distances is not None
    assert distances.hausdorff(95) == pytest.approx(3)


def test_one_empty_mask_has_no_distance_but_a_surface_dice_of_zero():
    full, empty = np.ones((3, 3, 3), dtype=bool), np.zeros((3, 3, 3), dtype=bool)
    assert surface_distances(full, empty, (1, 1, 1)) is None
    values = compare(full, empty, (1, 1, 1))
    assert values["hd95_mm"] is None
    assert values["nsd"] == 0
    assert values["volume_difference_ml"] == pytest.approx(-0.027)
    assert compare(empty, empty, (1, 1, 1))["nsd"] is None


def masks(case: dict) -> tuple[np.ndarray, np.ndarray]:
    made = []
    for side in ("gt", "pred"):
        array = np.zeros(case[side]["shape"], dtype=bool)
        for box in case[side]["boxes_set_to_1"]:
            array[tuple(slice(a, b) for a, b in box)] = True
        made.append(array)
    return made[0], made[1]


@pytest.mark.shared
def test_agrees_with_surface_distance():
    found = reference("seg_deepmind_cases.json")
    compared = 0
    for case in found["cases"]:
        truth, predicted = masks(case)
        expected, tolerance = case["expected"], found["tolerance_abs"]
        assert overlap.dice(truth, predicted) == pytest.approx(expected["dice"], abs=tolerance)
        assert overlap.iou_of(overlap.count(truth, predicted)) == pytest.approx(expected["iou"], abs=tolerance)
        distances = surface_distances(truth, predicted, case["spacing_mm"])
        if distances is None:
            assert "inf" in (expected["hd100"], expected["hd95"])
            continue
        compared += 1
        assert distances.hausdorff(100) == pytest.approx(expected["hd100"], abs=tolerance), case["name"]
        assert distances.hausdorff(95) == pytest.approx(expected["hd95"], abs=tolerance), case["name"]
        assert distances.directed_averages() == pytest.approx(
            (expected["asd_gt_to_pred"], expected["asd_pred_to_gt"]), abs=tolerance
        )
        for millimetres, value in expected["nsd"].items():
            assert distances.normalised_surface_dice(float(millimetres)) == pytest.approx(value, abs=tolerance)
    assert compared >= 4
