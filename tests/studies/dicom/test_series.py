from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from studies.dicom.errors import PixelError
from studies.dicom.series import Identity, encode, image_series, in_slice_order
from studies.dicom.volume import from_datasets
from tests.studies.dicom.slices import rotation, write_series


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[[-32768, 0, 32767]]], np.int32), np.int16),
        (np.array([[[0, 65535]]], np.int64), np.uint16),
        (np.array([[[100_000, 165_535]]], np.int64), np.uint16),
        (np.array([[[-70_000, -5_000]]], np.int32), np.uint16),
        (np.array([[[0.0, 1.0, 255.0]]], np.float32), np.int16),
        (np.array([[[True, False]]]), np.int16),
        (np.array([[[7]]], np.uint8), np.int16),
    ],
)
def test_whole_numbers_are_kept_exactly(values, dtype):
    stored = encode(values)
    assert stored.array.dtype == dtype
    assert stored.step == 0
    np.testing.assert_array_equal(stored.values(), values)


def test_scaled_integers_keep_their_stored_values_and_scale():
    stored = encode(np.array([[[-5, 1000]]], np.int16), slope=0.25, intercept=-3)
    np.testing.assert_array_equal(stored.array, [[[-5, 1000]]])
    np.testing.assert_array_equal(stored.values(), [[[-4.25, 247]]])


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(-1000, 1000, width=32)))
def test_other_values_come_back_to_within_half_a_step(values):
    others = values[values != np.median(values)]
    near, far = np.percentile(others, [1, 99]) if others.size else (0, 0)
    assume(far - near > 0.05 * (values.max() - values.min()))  # what is narrower may be refused, see below
    stored = encode(values)
    reach = float(values.max()) - float(values.min())
    assert np.abs(stored.values() - values).max() <= reach / 65535 * 0.5001 + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(PixelError, match="1 of 3") as refused:
        encode(np.array([[[1.5, bad, 2]]]))
    assert refused.value.code == "not_finite"


def test_a_fill_value_that_would_cost_all_precision_is_refused():
    values = np.random.default_rng(0).normal(0, 1, (10, 10, 10))
    values[0, 0, 0] = -3.4e38
    with pytest.raises(PixelError) as refused:
        encode(values)
    assert refused.value.code == "range"


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("mirror", [False, True])
def test_simpleitk_reads_the_same_values_at_the_same_places(modality, mirror, tmp_path):
    values = np.random.default_rng(2).normal(100, 40, (5, 6, 7)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = rotation(20, -35, 50) * [0.7, 1.1, 2.3]
    if mirror:
        affine[:3, 2] *= -1
    affine[:3, 3] = (-31.25, 12.5, 400.125)
    stored = encode(values)
    datasets = image_series(stored, affine, Identity("P1", "key"), modality=modality)
    write_series(datasets, tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert image.GetSize() == (7, 6, 5)
    for index in np.ndindex(7, 6, 5):
        there = image.TransformPhysicalPointToIndex([float(v) for v in (affine @ [*index, 1])[:3]])
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(there), (affine @ [*index, 1])[:3], atol=1e-3)
        assert image[there] == pytest.approx(values[index[2], index[1], index[0]], abs=stored.step * 0.51)
    # Ours sees the same, with slices in the order of the normal.
    volume = from_datasets([pydicom.dcmread(path) for path in tmp_path.iterdir()])
    np.testing.assert_allclose(volume.array, in_slice_order(values, affine), atol=stored.step * 0.51)
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image), atol=1e-3)


def test_the_same_input_gives_the_same_objects():
    stored = encode(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    made = [image_series(stored, np.eye(4), Identity("P1", "key"), modality="MR") for _ in range(2)]
    assert made[0] == made[1]
    other = image_series(stored, np.eye(4), Identity("P1", "other"), modality="MR")
    assert made[0][0].SOPInstanceUID != other[0].SOPInstanceUID
    assert made[0][0].StudyInstanceUID != other[0].StudyInstanceUID
