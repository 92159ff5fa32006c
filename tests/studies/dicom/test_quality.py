"""Each defect is built in by hand, and a flawless series has no finding."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from studies.dicom import phantom
from studies.dicom.quality import frame_values, geometry_findings, pixel_findings
from tests.factories import ct_datasets, ct_slice


def codes(findings):
    return [finding.code for finding in findings]


def by_code(findings, code):
    return next(finding for finding in findings if finding.code == code)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_flawless_series_has_no_finding(modality):
    made = phantom.make(3, modality=modality)
    datasets = made.datasets()
    assert geometry_findings(datasets) == []
    values = [frame_values(dataset.pixel_array, dataset) for dataset in datasets]
    assert pixel_findings(values) == []


def test_missing_slices_are_counted_and_placed():
    datasets = [ct_slice(k) for k in range(20) if k not in (4, 11, 12)]
    found = by_code(geometry_findings(datasets), "missing_slices")
    assert found.numbers == {"missing": 3, "step_mm": 2.5, "after_mm": [7.5, 25.0]}
    assert codes(geometry_findings(datasets)) == ["missing_slices"]


def test_the_order_of_files_does_not_matter():
    datasets = [ct_slice(k) for k in range(20) if k != 4]
    assert geometry_findings(datasets[::-1]) == geometry_findings(datasets)


def test_duplicates_are_told_from_phases():
    datasets = ct_datasets(6)
    twice = [*datasets, ct_slice(2), ct_slice(2)]
    assert by_code(geometry_findings(twice), "duplicate_slices").numbers == {"duplicates": 2, "images": 8}
    phases = [ct_slice(k, TemporalPositionIdentifier=phase) for phase in (1, 2) for k in range(6)]
    assert geometry_findings(phases) == []


def test_uneven_steps():
    datasets = [ct_slice(k, ImagePositionPatient=[0, 0, z]) for k, z in enumerate([0, 2.5, 5, 8.4, 10.9, 13.4])]
    found = geometry_findings(datasets)
    assert codes(found) == ["irregular_spacing"]
    assert found[0].numbers == {"uneven": 1, "steps": 5, "smallest_mm": 2.5, "largest_mm": 3.4, "step_mm": 2.5}


@pytest.mark.parametrize("degrees", [5.0, 18.5])
def test_gantry_tilt_is_measured(degrees):
    t = np.radians(degrees)
    datasets = [
        ct_slice(k, ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(t)), float(np.sin(t))],
                 ImagePositionPatient=[0, 0, 5.0 * k], GantryDetectorTilt=degrees)
        for k in range(10)
    ]  # fmt: skip
    found = by_code(geometry_findings(datasets), "gantry_tilt")
    assert found.numbers["degrees"] == pytest.approx(degrees, abs=0.01)
    assert found.numbers["header_degrees"] == degrees


def test_a_tilt_that_only_the_header_knows():
    found = geometry_findings(ct_datasets(5, GantryDetectorTilt=12))
    assert found[0].code == "gantry_tilt"
    assert found[0].numbers == {"degrees": 0.0, "header_degrees": 12.0}


def test_the_plane_in_words_against_the_plane_in_space():
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    datasets = [ct_slice(k, **coronal, ImagePositionPatient=[0, 2.0 * k, 0], SeriesDescription="T1 sag 3D",
                         ImageType=["ORIGINAL", "PRIMARY", "OTHER"]) for k in range(5)]  # fmt: skip
    assert by_code(geometry_findings(datasets), "wrong_orientation").numbers == {"said": "sagittal", "plane": "coronal"}
    for dataset in datasets:
        dataset.SeriesDescription = "COR STIR"
    assert geometry_findings(datasets) == []
    for dataset in datasets:
        dataset.SeriesDescription = "corticosteroid sagacity"  # no word of a plane
    assert geometry_findings(datasets) == []


def test_a_mirrored_radiograph():
    image = Dataset()
    image.ViewPosition, image.PatientOrientation = "PA", ["R", "F"]
    found = geometry_findings([image])
    assert codes(found) == ["wrong_orientation"]
    assert "mirrored" in found[0].reason
    image.PatientOrientation = ["L", "F"]
    assert geometry_findings([image]) == []


def test_direction_cosines_that_are_not_orthonormal():
    datasets = [*ct_datasets(5), ct_slice(5, ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0])]
    assert by_code(geometry_findings(datasets), "wrong_orientation").numbers == {"images": 1, "of": 6}


def test_a_localiser_among_the_slices():
    datasets = [*ct_datasets(8), ct_slice(0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], rows=16, columns=16)]
    found = geometry_findings(datasets)
    assert codes(found) == ["mixed_geometry"]
    assert found[0].numbers == {"images": 1, "of": 9, "kinds": 2}


def image(bits=12, photometric="MONOCHROME2", **more):
    dataset = Dataset()
    dataset.BitsStored, dataset.PhotometricInterpretation = bits, photometric
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


RAMP = np.add.outer(np.arange(100) * 3, np.arange(100) * 3)


def test_blank_images():
    blank, ramp = np.full((100, 100), 7), RAMP
    almost = blank.copy()
    almost[0, :10] = 9  # 0.1 %: a dead row does not make a picture
    values = [frame_values(array, image()) for array in (blank, almost, ramp, ramp)]
    assert by_code(pixel_findings(values), "blank").numbers == {"images": 2, "of": 4}
    assert codes(pixel_findings(values)) == ["blank"]


def test_padding_does_not_count_as_content():
    array = np.full((100, 100), -2000)
    assert frame_values(array, image(PixelPaddingValue=-2000)) is None
    assert codes(pixel_findings([None])) == ["blank"]


def test_a_range_of_padding_does_not_count_as_content():
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), in either order."""
    stored = np.full((64, 64), 100)
    stored[:40] = np.arange(64) % 7  # a ramp of padding
    for value, limit in ((0, 6), (6, 0)):
        measured = frame_values(stored, image(PixelPaddingValue=value, PixelPaddingRangeLimit=limit))
        assert measured.commonest_share == 1.0
    assert frame_values(stored, image(PixelPaddingValue=0)).commonest_share < 0.9


def test_clipping_at_the_bright_end_only():
    array = RAMP.copy()
    array[:20] = 4095
    found = pixel_findings([frame_values(array, image())])
    assert codes(found) == ["clipped"]
    assert found[0].numbers["largest_share"] == 0.2
    assert pixel_findings([frame_values(array, image(photometric="MONOCHROME1"))]) == []
    dark = RAMP.copy() + 1
    dark[:20] = 0
    assert pixel_findings([frame_values(dark, image())]) == []
    assert codes(pixel_findings([frame_values(dark, image(photometric="MONOCHROME1"))])) == ["clipped"]


def test_low_contrast_of_single_images_and_of_stacks():
    random = np.random.default_rng(1)
    flat = frame_values(1000 + random.integers(0, 20, (100, 100)), image())
    good = frame_values(RAMP, image())
    assert codes(pixel_findings([flat])) == ["low_contrast"]
    assert pixel_findings([flat, good, good]) == []  # the ends of a stack may show air
    pale = frame_values(120 + random.integers(0, 20, (100, 100)), image(bits=8))
    assert codes(pixel_findings([pale])) == ["low_contrast"]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("qin-prostate-001/**/*", set()),
        ("highdicom/**/*", set()),
        ("nema-enhanced/**/BRMULTI", {"mixed_geometry"}),  # two orientations of a localiser in one object
    ],
)
def test_real_series(pattern, expected):
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
    series = defaultdict(list)
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            dataset = dcmread(path, stop_before_pixels=True, force=True)
            if "Rows" in dataset and dataset.get("Modality") in ("CT", "MR"):
                series[dataset.SeriesInstanceUID].append(dataset)
    assert series
    assert {finding.code for datasets in series.values() for finding in geometry_findings(datasets)} == expected
