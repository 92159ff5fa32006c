"""A detector over windows, with a network whose answers are known: it marks bright voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, max_pool3d

from inference.networks import detection, detector


class Bright(nn.Module):
    """Answers as a perfect detector of 6-voxel blocks of value 1: probable at cells that see the middle (value 2)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        d = self.dimensions
        answers = []
        for stride in detector.STRIDES:
            pool = max_pool2d if d == 2 else max_pool3d
            seen = pool(x, stride)
            shape = seen.shape[2:]
            maps = torch.full((len(x), 1 + 2 * d + 1, *shape), -20.0)
            if stride == 4:
                for place in torch.nonzero(x[:, 0] == 2).tolist():
                    b, at = place[0], place[1:]
                    cell = [p // stride for p in at]
                    index = (b, slice(None), *cell)
                    centre = [(c + 0.5) * stride for c in cell]
                    near = [c - (p + 0.5 - 3) for c, p in zip(centre, at, strict=True)]
                    far = [p + 0.5 + 3 - c for c, p in zip(centre, at, strict=True)]
                    maps[index] = torch.tensor([8.0, *near, *far, 8.0])
            answers.append(maps)
        return answers


def image(shape, middles) -> torch.Tensor:
    array = torch.zeros(1, *shape)
    for middle in middles:
        array[(0, *middle)] = 2
    return array


def test_each_lesion_of_a_volume_is_found_once_and_whole_in_whatever_windows_it_lies():
    middles = [(9, 20, 20), (30, 31, 16), (30, 16, 60), (44, 50, 70)]
    found = detection.detect([Bright(3)], image((48, 64, 80), middles), {"window": [32, 32, 32], "overlap": 0.5})
    centres = sorted(tuple(box.mean(axis=0)) for box in found.boxes)
    np.testing.assert_allclose(centres, sorted(middles), atol=1e-4)
    np.testing.assert_allclose(found.boxes[:, 1] - found.boxes[:, 0], 6, atol=1e-4)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_an_image_smaller_than_the_window_is_padded_and_nothing_lies_outside_it():
    found = detection.detect([Bright(3)], image((10, 20, 24), [(5, 10, 12), (0, 18, 22)]), {"window": [16, 32, 32]})
    assert len(found.boxes) == 2
    assert (found.boxes[:, 0] >= -0.5).all()
    assert (found.boxes[:, 1] <= np.array([10, 20, 24]) - 0.5).all()


def test_a_detector_in_two_dimensions_gives_boxes_with_the_depth_over_which_they_follow_each_other():
    middles = [(2, 16, 16), (3, 16, 17), (4, 17, 17), (8, 40, 40), (3, 40, 12)]
    found = detection.detect([Bright(2)], image((10, 48, 48), middles), {"window": [1, 48, 48]})
    depths = sorted((box[0][0], box[1][0]) for box in found.boxes)
    assert depths == [(1.5, 4.5), (2.5, 3.5), (7.5, 8.5)]
    alone = detection.detect([Bright(2)], image((1, 48, 48), [(0, 16, 16)]), {"window": [1, 48, 48]})
    np.testing.assert_allclose(alone.boxes, [[[-0.5, 13, 13], [0.5, 19, 19]]], atol=0.51)


def test_of_overlapping_boxes_of_a_class_the_most_probable_stays():
    boxes = np.array([[[0, 0, 0], [4, 4, 4]], [[0, 0, 1], [4, 4, 5]], [[0, 0, 0], [4, 4, 4]]], float)
    kept = detection.suppressed(boxes, np.array([0.5, 0.9, 0.3]), np.array([0, 0, 1]), 0.2)
    assert kept.tolist() == [1, 2]
    assert detection.suppressed(boxes[:0], np.zeros(0), np.zeros(0), 0.2).tolist() == []


class Blind(Bright):
    """Sees nothing."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return super().forward(torch.zeros_like(x))


def test_of_several_members_the_boxes_are_fused_and_a_member_that_sees_nothing_lowers_the_score():
    scene = image((32, 32, 64), [(9, 20, 20), (16, 16, 44)])
    alone = detection.detect([Bright(3)], scene, {"window": [32, 32, 64]})
    three = detection.detect([Bright(3), Blind(3), Bright(3)], scene, {"window": [32, 32, 64]})
    np.testing.assert_allclose(three.boxes, alone.boxes, atol=1e-4)
    np.testing.assert_allclose(three.scores, alone.scores * 2 / 3, rtol=1e-6)
    rare = detection.detect([Bright(3), *[Blind(3)] * 3], scene, {"window": [32, 32, 64], "least": 0.3})
    assert len(rare.boxes) == 0  # a quarter of the members saw them


@pytest.mark.parametrize(("dimensions", "window"), [(3, [16, 32, 32]), (2, [1, 48, 64])])
def test_mirror_images_and_shifts_find_each_lesion_where_it_is(dimensions, window):
    scene = image((16, 48, 64), [(9, 20, 23), (5, 33, 50), (12, 11, 9)])
    alone = detection.detect([Bright(dimensions)], scene, {"window": window})
    several = detection.detect([Bright(dimensions)], scene, {"window": window, "mirror": ["z", "x", "y"], "shifts": 4})
    assert len(several.boxes) == 3
    key = lambda found: np.array(sorted(found.boxes.reshape(-1, 6).tolist()))  # noqa: E731
    np.testing.assert_allclose(key(several), key(alone), atol=1e-3)


def test_faint_boxes_are_kept_up_to_forty_and_certain_ones_up_to_two_hundred():
    boxes = np.arange(300)[:, None, None] * np.ones((300, 2, 3))
    for certain, kept in ((3, 40), (120, 120), (300, 200)):
        scores = np.where(np.arange(300) < certain, 0.6, 0.1)
        assert len(detection._best(boxes, scores, np.zeros(300, dtype=int)).boxes) == kept
