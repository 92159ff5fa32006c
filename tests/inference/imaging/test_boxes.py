from __future__ import annotations

import numpy as np
import pytest
from monai.data.box_utils import box_iou

from inference.imaging import boxes


def test_every_part_of_a_mask_has_its_box_at_the_edges_of_its_voxels():
    mask = np.zeros((8, 20, 20), bool)
    mask[1:3, 4:9, 5:6] = True
    mask[5, 10, 10] = mask[6, 11, 11] = True  # touch at a corner
    np.testing.assert_array_equal(
        boxes.of_mask(mask), [[[0.5, 3.5, 4.5], [2.5, 8.5, 5.5]], [[4.5, 9.5, 9.5], [6.5, 11.5, 11.5]]]
    )
    assert boxes.of_mask(np.zeros((2, 3, 4), bool)).shape == (0, 2, 3)


def test_the_box_around_what_was_painted_is_the_box():
    made = np.array([[[0.5, 3.5, 4.5], [2.5, 8.5, 5.5]], [[3.5, 9.5, 2.5], [7.5, 19.5, 15.5]]])
    painted = boxes.paint(list(made), [7, 255], (8, 20, 20))
    found = boxes.of_numbers(painted)
    np.testing.assert_array_equal([found[7], found[255]], made)
    # It is an ellipsoid: about pi / 6 of the box, and nothing at its corners.
    assert 0.4 < (painted == 255).sum() / np.prod(made[1][1] - made[1][0]) < 0.62
    assert painted[4, 10, 3] == 0


def test_a_small_box_stays_seen_in_a_large_one_and_one_thinner_than_a_voxel_is_painted():
    outer, inner = np.array([[0, 0, 0], [9.5, 9.5, 9.5]]), np.array([[3.9, 4, 4], [4.1, 6, 6]])
    painted = boxes.paint([inner, outer], [1, 2], (10, 10, 10))
    assert set(np.unique(painted)) == {0, 1, 2}
    with pytest.raises(ValueError, match="255"):
        boxes.paint([inner], [256], (10, 10, 10))


def test_intersection_over_union_is_that_of_monai():
    random = np.random.default_rng(0)
    low = random.random((2, 5, 3)) * 5
    first, second = np.stack([low, low + random.random((2, 5, 3)) * 5], axis=2)
    theirs = box_iou(first.reshape(-1, 6), second.reshape(-1, 6))
    np.testing.assert_allclose(boxes.iou(first, second), theirs, atol=1e-6)


def test_boxes_of_neighbouring_slices_are_one_lesion_and_others_stay_apart():
    flat = np.array([[[z - 0.5, 0, x], [z + 0.5, 8, x + 8]] for z, x in ((0, 0), (1, 1), (2, 2), (5, 2), (1, 30))])
    groups = boxes.linked(flat, np.array([0.2, 0.9, 0.3, 0.8, 0.4]), np.zeros(5, int), 0.5)
    assert [sorted(group) for group in groups] == [[0, 1, 2], [3], [4]]
    two = boxes.linked(flat[:2], np.array([0.2, 0.9]), np.array([0, 1]), 0.5)
    assert len(two) == 2
