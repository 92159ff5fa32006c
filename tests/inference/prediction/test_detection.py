"""Boxes of a detector at their place in the patient, whatever preprocessing did to the image."""

from __future__ import annotations

import numpy as np
import pytest

from inference.imaging import preprocessing
from inference.prediction import detection
from studies.dicom.volume import Volume
from tests.inference.networks.test_detection import Bright
from tests.studies.dicom.slices import rotation

MANIFEST = {"labels": [{"number": 1, "name": "Nodule"}], "inference": {"window": [32, 48, 48], "overlap": 0.5}}


@pytest.mark.parametrize("angles", [(0, 0, 0), (0, 180, 0), (10, -20, 33), (90, 0, 0)])
def test_a_lesion_is_where_it_was_in_the_patient(angles):
    volume = Volume(np.zeros((20, 40, 44), np.float32), (2.0, 2.0, 2.0), (-12.0, 30.0, 7.5), rotation(*angles))
    volume.array[9, 21, 30] = 2
    prepared = preprocessing.prepare(volume, preprocessing.check([{"name": "orient", "to": "LPS"}]))
    output = detection.run([Bright(3)], [prepared], volume, MANIFEST)
    (finding,) = output.findings
    np.testing.assert_allclose(finding.corners.mean(axis=0), (volume.affine @ [30, 21, 9, 1])[:3], atol=1e-3)
    # 6 voxels of 2 mm along each axis of the original image, half of them on either side of the middle of the voxel.
    np.testing.assert_allclose(finding.box(volume), [[6, 18, 27], [12, 24, 33]], atol=1e-3)
    assert output.scores == {"Nodule": pytest.approx(finding.score)}
    assert finding.score > 0.9


def test_a_box_is_cut_at_the_edge_of_the_image_and_left_out_where_only_padding_has_it():
    volume = Volume(np.zeros((10, 20, 20), np.float32), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    cut = detection.on_original("Nodule", 0.5, np.array([[-4, 5, 5], [3, 12, 30]]), volume, volume)
    np.testing.assert_allclose(cut.box(volume), [[-0.5, 5, 5], [3, 12, 19.5]])
    assert detection.on_original("Nodule", 0.5, np.array([[-4, 5, 5], [-1, 12, 9]]), volume, volume) is None


def test_an_image_without_lesions_has_no_findings_and_the_score_0():
    volume = Volume(np.zeros((10, 20, 20), np.float32), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    output = detection.run([Bright(3)], [volume], volume, MANIFEST)
    assert (list(output.findings), output.scores) == ([], {"Nodule": 0.0})
