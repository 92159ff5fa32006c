from __future__ import annotations

import random
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import ComputedRadiographyImageStorage

from studies.dicom import parametric_map, projection, rendering
from studies.dicom.errors import MapError
from studies.dicom.parametric_map import GRADIENT_WEIGHTED_CLASS_ACTIVATION
from studies.dicom.segmentation import Algorithm
from studies.dicom.volume import Volume, from_datasets
from tests.studies.dicom.slices import rotation, series

MODEL = Algorithm("pneumonia", "3")


@pytest.fixture
def sources():
    return series(np.zeros((6, 8, 9), np.int16), direction=rotation(10, -20, 33))


@pytest.fixture
def values():
    return np.random.default_rng(4).normal(size=(6, 8, 9)).astype(np.float32)


def written(sources, array, **settings):
    """The object as another program reads it from its file."""
    placed = "ImagePositionPatient" in sources[0]
    like = from_datasets(sources) if placed else projection.from_dataset(sources[0])
    settings = {"quantity": GRADIENT_WEIGHTED_CLASS_ACTIVATION, "label": "Pneumonia", "algorithm": MODEL, **settings}
    buffer = BytesIO()
    parametric_map.write(sources, like.like(array), **settings).save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def radiograph():
    (source,) = series(np.arange(72, dtype=np.int16).reshape(1, 8, 9))
    del source.ImagePositionPatient, source.ImageOrientationPatient, source.FrameOfReferenceUID
    source.SOPClassUID, source.Modality = ComputedRadiographyImageStorage, "CR"
    source.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    return source


def test_values_and_place_come_back_from_the_file(sources, values):
    found = parametric_map.read(written(sources, values))
    image = from_datasets(sources)
    np.testing.assert_array_equal(found.array, values)
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-6)


def test_the_order_of_the_images_does_not_matter(sources, values):
    found = parametric_map.read(written(random.Random(5).sample(sources, len(sources)), values))
    np.testing.assert_array_equal(found.array, values)


def test_highdicom_reads_the_same_values_at_the_same_places(sources, values):
    dataset = written(sources, values)
    theirs = hd.pm.ParametricMap.from_dataset(dataset).get_volume(apply_real_world_transform=True)
    ours = parametric_map.read(dataset)
    for index in [(0, 0, 0), (5, 7, 8), (2, 3, 5)]:
        place = ours.affine @ [*index[::-1], 1]
        (there,) = theirs.map_reference_to_indices(place[None, :3])
        assert theirs.array[tuple(np.rint(there).astype(int))] == pytest.approx(values[index])
    assert dataset.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert dataset.StudyInstanceUID == sources[0].StudyInstanceUID


def test_every_frame_points_to_its_image(sources, values):
    dataset = written(sources, values)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(by_uid.pop(uid).ImagePositionPatient, position, atol=1e-6)
    assert not by_uid


def test_the_header_says_what_the_values_are_and_what_made_them(sources, values):
    dataset = written(sources, values, limits=(-10, 10), derivation="Grad-CAM of the last feature map")
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.BitsAllocated == 32
    assert "FloatPixelData" in dataset
    described = parametric_map.describe(dataset)
    # PS3.16 CID 7180: 130403 is Gradient-weighted class activation
    assert (described.quantity.value, described.quantity.scheme_designator) == ("130403", "DCM")
    assert described.quantity.meaning == "Gradient-weighted class activation"
    assert (described.unit.value, described.unit.scheme_designator) == ("1", "UCUM")
    assert (described.label, described.limits) == ("Pneumonia", (-10.0, 10.0))
    equipment = dataset.ContributingEquipmentSequence[0]
    assert (equipment.ManufacturerModelName, equipment.SoftwareVersions) == ("pneumonia", "3")
    assert equipment.ContributionDescription == "Grad-CAM of the last feature map"


def test_a_radiograph_gets_a_map_on_its_own_grid(values):
    source = radiograph()
    dataset = written([source], values[:1])
    found = parametric_map.read(dataset)
    np.testing.assert_array_equal(found.array, values[:1])
    assert found.spacing[1:] == (0.8, 0.6)
    assert "FrameOfReferenceUID" not in source, "the image stays as it is"
    (frame,) = dataset.PerFrameFunctionalGroupsSequence
    referenced = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    assert referenced == source.SOPInstanceUID


def test_a_map_of_small_numbers_is_a_picture_with_shades(tmp_path):
    """A ramp from 0 to 1/16 becomes one from black to white, as in a thumbnail."""
    ramp = np.linspace(0, 0.0625, 72, dtype=np.float32).reshape(1, 8, 9)
    written([radiograph()], ramp, limits=(0.0, 0.0625)).save_as(tmp_path / "map.dcm", enforce_file_format=True)
    picture = rendering.render(tmp_path / "map.dcm")
    np.testing.assert_allclose(picture.ravel(), np.linspace(0, 255, 72), atol=1)


def test_a_colour_photograph_gets_a_map(values):
    source = radiograph()
    del source.PixelSpacing, source.SliceThickness
    source.SOPClassUID, source.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"
    source.SamplesPerPixel, source.PhotometricInterpretation, source.PlanarConfiguration = 3, "RGB", 0
    source.BitsAllocated = source.BitsStored = 8
    source.HighBit, source.PixelRepresentation = 7, 0
    source.PixelData = bytes(8 * 9 * 3)
    np.testing.assert_array_equal(parametric_map.read(written([source], values[:1])).array, values[:1])


def test_a_single_slice_keeps_its_place(values):
    (source,) = series(np.zeros((1, 8, 9), np.int16))
    found = parametric_map.read(written([source], values[:1]))
    np.testing.assert_allclose(found.origin, source.ImagePositionPatient)


def test_long_names_and_narrow_ranges_fit_the_header(sources):
    constant = np.full((6, 8, 9), 1 / 3, np.float32)
    dataset = written(sources, constant, label="A class with a name that is much longer than sixteen characters")
    np.testing.assert_array_equal(parametric_map.read(dataset).array, constant)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda image: Volume(image.array[:5], image.spacing, image.origin, image.direction), "shape"),
        (lambda image: Volume(image.array, image.spacing, (0.0, 0.0, 0.0), image.direction), "geometry"),
        (lambda image: image.like(np.full(image.shape, np.nan, np.float32)), "not_finite"),
        (lambda image: image.like(np.full(image.shape, 2.0, np.float32)), "limits"),
    ],
)
def test_a_map_that_does_not_fit_its_images_is_refused(sources, change, code):
    with pytest.raises(MapError) as refused:
        parametric_map.write(
            sources, change(from_datasets(sources)), quantity=parametric_map.PROBABILITY, label="x", algorithm=MODEL,
            limits=(0, 1),
        )  # fmt: skip
    assert refused.value.code == code


def test_an_image_is_no_map(sources):
    with pytest.raises(MapError) as refused:
        parametric_map.read(sources[0])
    assert refused.value.code == "not_a_map"
