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
    with pytest.raises(ValueError, match="32767"):
        boxes.paint([inner], [32768], (10, 10, 10))


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


def found(*rows):
    """(score, class, low z, y, x, high z, y, x) of each box as a member's answer."""
    table = np.array(rows, float).reshape(-1, 8)
    return table[:, 2:].reshape(-1, 2, 3), table[:, 0], table[:, 1].astype(int)


def test_fused_boxes_are_means_weighted_by_score_and_lose_by_members_that_saw_nothing():
    """By hand after Solovyev et al., section 3: one lesion that both members see (intersection over union 48 / 80), one
    that the second sees alone, and one at the same place as the first but of another class."""
    first = found((0.9, 0, 0, 0, 0, 4, 4, 4))
    second = found((0.8, 0, 10, 10, 10, 14, 14, 14), (0.3, 0, 0, 0, 1, 4, 4, 5), (0.2, 1, 0, 0, 0, 4, 4, 4))
    made, scores, numbers = boxes.fused([first, second], 0.5)
    np.testing.assert_allclose(scores, [(0.9 + 0.3) / 2, 0.8 / 2, 0.2 / 2])
    assert numbers.tolist() == [0, 0, 1]
    # (0.9 · 0 + 0.3 · 1) / 1.2 to the right.
    np.testing.assert_allclose(made[0], [[0, 0, 0.25], [4, 4, 4.25]])
    np.testing.assert_allclose(made[1:], np.stack([second[0][0], second[0][2]]))
    apart, scores, _ = boxes.fused([first, second], 0.6)
    np.testing.assert_allclose(scores, [0.45, 0.4, 0.15, 0.1])
    assert len(apart) == 4


def test_later_boxes_are_compared_with_what_was_fused_so_far_and_in_a_slice_as_in_a_volume():
    """Squares of one slice, 10 wide: 0 and 2 make 1 at equal scores; 5 overlaps 1 by 6 / 14, but 0 by 5 / 15 only."""
    members = [found((0.5, 0, -0.5, 0, x, 0.5, 10, x + 10)) for x in (0, 2)] + [
        found((0.4, 0, -0.5, 0, 5, 0.5, 10, 15))
    ]
    made, scores, _ = boxes.fused(members, 0.4)
    assert scores.tolist() == [pytest.approx((0.5 + 0.5 + 0.4) / 3)]
    np.testing.assert_allclose(made[0, :, 2], [(0.5 * 2 + 0.4 * 5) / 1.4, (0.5 * 2 + 0.4 * 5) / 1.4 + 10])
    np.testing.assert_allclose(made[0, :, :2], [[-0.5, 0], [0.5, 10]])


def crowd(seed: int):
    random = np.random.default_rng(seed)
    low = random.random((30, 3)) * 12
    return np.stack([low, low + 2 + random.random((30, 3)) * 4], axis=1), random.random(30), random.integers(0, 2, 30)


def test_fusing_one_member_changes_nothing_nor_do_equal_members():
    one = crowd(0)
    order = np.argsort(-one[1])
    for members in ([one], [one, one, one]):
        made = boxes.fused(members, 0.2)
        for got, wanted in zip(made, one, strict=True):
            np.testing.assert_allclose(got, wanted[order], atol=1e-12)
    nothing = found()
    assert [len(part) for part in boxes.fused([nothing, nothing], 0.2)] == [0, 0, 0]


def test_the_order_of_the_members_does_not_matter():
    members = [crowd(seed) for seed in range(4)]
    for got, wanted in zip(boxes.fused(members[::-1], 0.2), boxes.fused(members, 0.2), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-12)
