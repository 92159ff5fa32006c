"""Alignment of images against transforms and values that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import PreprocessingError
from inference.imaging import registration
from studies.dicom.volume import Volume


def points(volume: Volume) -> np.ndarray:
    """LPS mm of every voxel, [z, y, x, 3]."""
    z, y, x = np.indices(volume.shape)
    return (np.stack([x, y, z, np.ones_like(x)], axis=-1) @ volume.affine.T)[..., :3]


def head(place: np.ndarray, *, second: bool) -> np.ndarray:
    """A phantom [z, y, x] as a function of the place in mm: an ellipsoid with two ventricles and a bright spot.

    The second contrast has other grey values for the same tissues.
    """
    grey = {"skull": 1.0, "inside": 0.5, "ventricle": 0.1, "spot": 0.9}
    if second:
        grey = {"skull": 0.2, "inside": 0.6, "ventricle": 1.0, "spot": 0.3}

    def ball(centre, radii):
        return (((place - centre) / radii) ** 2).sum(axis=-1) < 1

    image = np.zeros(place.shape[:-1])
    image[ball([0, 0, 0], [38, 46, 34])] = grey["skull"]
    image[ball([0, 0, 0], [33, 41, 29])] = grey["inside"]
    image[ball([-9, 4, 4], [5, 14, 8])] = grey["ventricle"]
    image[ball([9, 4, 4], [5, 14, 8])] = grey["ventricle"]
    image[ball([15, -20, -8], [7, 6, 6])] = grey["spot"]
    return image


def moved(degrees: tuple[float, float, float], millimetres: tuple[float, float, float]) -> np.ndarray:
    """4×4: rotation about x, then y, then z, and translation."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = millimetres
    return matrix


FIXED = Volume(np.zeros((28, 36, 32)), (3.0, 3.0, 3.0), (-46.5, -52.5, -40.5))
MOVING = Volume(np.zeros((26, 40, 36)), (3.2, 2.8, 2.8), (-49.0, -54.6, -40.0))


def test_a_phantom_that_was_moved_is_laid_over_the_other_contrast():
    truth = moved((4.0, -5.0, 7.0), (5.0, -4.0, 3.0))  # fixed to moving
    fixed = FIXED.like(head(points(FIXED), second=False))
    back = np.linalg.inv(truth)
    moving = MOVING.like(head(points(MOVING) @ back[:3, :3].T + back[:3, 3], second=True))
    found = registration.rigid(moving, fixed)
    inside = points(FIXED)[fixed.array > 0]
    error = np.linalg.norm(inside @ (found - truth)[:3, :3].T + (found - truth)[:3, 3], axis=-1)
    assert error.mean() < 1.0  # mm, a third of a voxel; before it was more than 7
    assert np.linalg.norm(inside @ (np.eye(4) - truth)[:3, :3].T + (np.eye(4) - truth)[:3, 3], axis=-1).mean() > 7
    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)

    seen = registration.on_grid(moving, fixed, found).array
    wanted = head(points(FIXED), second=True)
    before = registration.on_grid(moving, fixed).array
    assert np.abs(seen - wanted).mean() < 0.5 * np.abs(before - wanted).mean()


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, 1.0, -1.0]), moved((20, 0, 10), (0, 0, 0))[:3, :3]])
def test_in_one_frame_of_reference_the_place_alone_decides(direction):
    """Values that are a linear function of the place are interpolated exactly, also between grids that are rotated."""
    centre = np.array([10.0, -5.0, 20.0])
    other = Volume(np.zeros((30, 30, 30)), (1.0, 0.9, 1.1), (0, 0, 0), direction)
    other = Volume(other.array, other.spacing, tuple(centre - (points(other)[15, 15, 15])), direction)
    other = other.like(points(other) @ [1.0, 10.0, 100.0])
    grid = Volume(np.zeros((6, 7, 8)), (1.0, 1.3, 0.7), tuple(centre - 3.0))
    found = registration.on_grid(other, grid)
    assert np.allclose(found.array, points(grid) @ [1.0, 10.0, 100.0], rtol=1e-4, atol=0.05)


def test_an_image_of_the_same_grid_keeps_its_values():
    image = FIXED.like(np.random.default_rng(0).normal(size=FIXED.shape))
    assert np.array_equal(registration.on_grid(image, FIXED).array, image.array.astype(np.float32))


def test_a_localiser_cannot_be_aligned():
    with pytest.raises(PreprocessingError, match="too few slices"):
        registration.rigid(Volume(np.zeros((2, 30, 30))), FIXED)
