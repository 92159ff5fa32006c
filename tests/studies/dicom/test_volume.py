from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file

from studies.dicom.errors import GeometryError, PixelError
from studies.dicom.volume import from_datasets
from tests.studies.dicom.slices import rotation, series, write_series

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def test_slices_in_any_order_make_the_volume_they_were_cut_from(array):
    direction = rotation(10, -25, 40)
    datasets = series(array, direction=direction, origin=(3, -4, 50))
    random.Random(3).shuffle(datasets)
    volume = from_datasets(datasets)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.spacing, (2.5, 0.8, 0.6))
    np.testing.assert_allclose(volume.origin, (3, -4, 50), atol=1e-9)
    np.testing.assert_allclose(volume.direction, direction, atol=1e-9)


def test_geometry_and_values_are_those_of_simpleitk(array, tmp_path):
    write_series(series(array, direction=rotation(5, 60, -30), slope=2.0, intercept=-1024), tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume = from_datasets([pydicom.dcmread(path) for path in tmp_path.iterdir()])
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image))
    for index in [(0, 0, 0), (6, 5, 4), (2, 3, 1)]:
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], expected, atol=1e-4)


def test_rescale_is_applied_slice_by_slice(array):
    datasets = series(array)
    datasets[2].RescaleSlope, datasets[2].RescaleIntercept = 0.5, 3.25
    volume = from_datasets(datasets)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[2], array[2] * 0.5 + 3.25)
    np.testing.assert_array_equal(volume.array[1], array[1])


def test_whole_intercept_beyond_16_bit_stays_exact(array):
    volume = from_datasets(series(array, intercept=40_000))
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array, array.astype(np.int32) + 40_000)


def drop(datasets):
    del datasets[2]


def repeat(datasets):
    datasets[3].ImagePositionPatient = datasets[2].ImagePositionPatient


def tilt(datasets):
    for z, dataset in enumerate(datasets):
        x, y, height = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y + 0.5 * z, height]


def turn(datasets):
    datasets[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def unplace(datasets):
    del datasets[1].ImagePositionPatient


def crop(datasets):
    datasets[1].Rows, datasets[1].PixelData = 5, datasets[1].PixelData[: 5 * 7 * 2]


def stretch(datasets):
    datasets[1].PixelSpacing = [1, 1]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (drop, "spacing"),
        (repeat, "duplicate_position"),
        (tilt, "tilt"),
        (turn, "orientation"),
        (unplace, "no_position"),
        (crop, "size"),
        (stretch, "pixel_spacing"),
    ],
)
def test_what_is_no_regular_grid_is_refused_with_its_reason(array, spoil, code):
    datasets = series(array)
    spoil(datasets)
    with pytest.raises(GeometryError) as refused:
        from_datasets(datasets)
    assert refused.value.code == code
    assert refused.value.next_step


def test_rounded_positions_are_accepted(array):
    datasets = series(array, spacing=(0.625, 0.5, 0.5))
    for dataset in datasets:
        dataset.ImagePositionPatient = [round(float(v), 1) for v in dataset.ImagePositionPatient]
    assert from_datasets(datasets).spacing[0] == pytest.approx(0.625, abs=0.03)


def test_an_empty_series_is_refused():
    with pytest.raises(GeometryError, match="no images"):
        from_datasets([])


def test_a_truncated_image_is_refused(array):
    datasets = series(array)
    datasets[4].PixelData = datasets[4].PixelData[:10]
    with pytest.raises(PixelError) as refused:
        from_datasets(datasets)
    assert refused.value.code == "undecodable"


def test_a_radiograph_is_one_slice(array):
    (dataset,) = series(array[:1])
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    volume = from_datasets([dataset])
    np.testing.assert_array_equal(volume.array, array[:1])
    assert volume.spacing == (2.5, 0.8, 0.6)


def test_a_screen_capture_in_colour_is_refused():
    with pytest.raises(PixelError) as colour:
        from_datasets([pydicom.dcmread(get_testdata_file("SC_rgb_small_odd.dcm", download=False))])
    assert colour.value.code == "colour"


def test_a_cine_loop_is_refused():
    with pytest.raises(GeometryError) as cine:
        from_datasets([pydicom.dcmread(get_testdata_file("examples_ybr_color.dcm", download=False))])
    assert cine.value.code == "no_frame_positions"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs the development data beside the checkout")
def test_enhanced_multi_frame_mr_reads_as_highdicom_reads_it():
    import highdicom as hd

    found = 0
    for path in sorted((SHARED / "dicom" / "nema-enhanced").rglob("*")):
        if not path.is_file():
            continue
        dataset = pydicom.dcmread(path, force=True)
        if int(dataset.get("NumberOfFrames") or 1) < 2 or "PixelData" not in dataset:
            continue
        try:
            theirs = hd.Image.from_dataset(dataset).get_volume()
        except Exception:  # not one regular stack
            with pytest.raises(GeometryError):
                from_datasets([dataset])
            continue
        found += 1
        ours = from_datasets([dataset])
        index_of = np.linalg.inv(ours.affine) @ theirs.affine[:, [2, 1, 0, 3]]  # highdicom: slice, row, column
        for z, y, x in np.ndindex(*theirs.array.shape[:1], 3, 4):
            i, j, k = np.rint(index_of @ [x, y, z, 1])[:3].astype(int)
            assert ours.array[k, j, i] == pytest.approx(theirs.array[z, y, x], rel=1e-5)
    if not found:
        pytest.skip("no regular multi-frame stack in the development data")
