"""Single images without a place in the patient: what a classifier gets of them."""

from __future__ import annotations

import numpy as np
import pytest

from studies.dicom import projection
from studies.dicom.errors import PixelError
from tests.factories import ct_slice


def radiograph(array: np.ndarray, **changes):
    dataset = ct_slice(0, rows=array.shape[0], columns=array.shape[1])
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.PixelRepresentation = 0, 1, 0
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = array.astype("<u2").tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


STORED = np.arange(12).reshape(3, 4) * 300


def test_values_are_kept_and_the_spacing_is_that_of_the_detector():
    found = projection.from_dataset(radiograph(STORED, ImagerPixelSpacing=[0.2, 0.1]))
    assert np.array_equal(found.array, STORED[None])
    assert found.spacing == (1.0, 0.2, 0.1)
    assert projection.from_dataset(radiograph(STORED)).spacing == (1.0, 1.0, 1.0)


def test_monochrome1_becomes_bright_where_it_was_dark():
    found = projection.from_dataset(radiograph(STORED, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(found.array, 4095 - STORED[None])
    shifted = radiograph(STORED, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=-100, RescaleSlope=2)
    assert np.array_equal(projection.from_dataset(shifted).array, 2 * (4095 - STORED[None]) - 100)


def test_colour_becomes_its_luminance():
    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[1, 0] = (255, 0, 0), (0, 255, 0), (80, 80, 80)
    dataset = radiograph(np.zeros((2, 2)), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = rgb.tobytes()
    assert projection.from_dataset(dataset).array[0] == pytest.approx(
        np.array([[0.299 * 255, 0.587 * 255], [80, 0]]), abs=1e-3
    )


def test_several_frames_are_refused():
    with pytest.raises(PixelError, match="several frames"):
        projection.from_dataset(radiograph(STORED, NumberOfFrames=2))
