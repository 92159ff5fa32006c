"""Places of findings, from voxels to the patient and back."""

from __future__ import annotations

import numpy as np
import pytest

from inference.prediction.output import Finding
from studies.dicom.volume import Volume

AXIAL = Volume(np.zeros((10, 20, 30)), (2.0, 0.5, 0.25), (-10.0, -20.0, 30.0))
TURN = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


def test_a_box_lies_on_the_outer_edges_of_its_voxels():
    # Voxels z 3–4, y 6–9, x 8–15: x from −10 + 7.5·0.25 to −10 + 15.5·0.25, and so on.
    found = Finding.on_grid("Nodule", 0.9, [[2.5, 5.5, 7.5], [4.5, 9.5, 15.5]], AXIAL)
    assert found.corners == pytest.approx(np.array([[-8.125, -17.25, 35.0], [-6.125, -15.25, 39.0]]))
    told = found.as_dict(AXIAL)
    assert told["size_mm"] == [2.0, 2.0, 4.0]
    assert told["centre"] == [-7.125, -16.25, 37.0]
    assert told["slices"] == [3, 4]


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, 1.0, -1.0]), np.eye(3)[:, [1, 2, 0]], TURN])
def test_a_box_comes_back_to_its_voxels_however_the_image_lies(direction):
    volume = Volume(np.zeros((10, 20, 30)), (2.0, 0.5, 0.25), (-10.0, -20.0, 30.0), direction)
    box = np.array([[2.5, 5.5, 7.5], [4.5, 9.5, 15.5]])
    found = Finding.on_grid("Nodule", 0.9, box, volume)
    assert found.box(volume) == pytest.approx(box)
    assert found.as_dict(volume)["size_mm"] == pytest.approx([2.0, 2.0, 4.0])


def test_a_point_is_a_box_without_size():
    found = Finding.on_grid("Seed", 0.5, [[3, 6, 8], [3, 6, 8]], AXIAL)
    assert found.as_dict(AXIAL)["size_mm"] == [0.0, 0.0, 0.0]
    assert found.as_dict(AXIAL)["slices"] == [3, 3]
