from __future__ import annotations

import shutil
import subprocess
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
)

from studies.dicom import structured_report as sr
from studies.dicom.errors import ReportError
from studies.dicom.segmentation import Algorithm
from studies.dicom.structured_report import Finding, Value
from studies.dicom.volume import from_datasets
from tests.studies.dicom.slices import rotation, series

DETECTOR = Algorithm("Nodule detector", "4")


@pytest.fixture
def sources():
    return series(np.zeros((9, 40, 50), np.int16), direction=rotation(10, -20, 33))


def box(sources, low, high):
    """Corners in LPS mm of the box from voxel `low` to voxel `high` (x, y, z), both whole within it."""
    affine = from_datasets(sources).affine
    ends = np.array([[*(np.array(low) - 0.5), 1], [*(np.array(high) + 0.5), 1]])
    return (ends @ affine.T)[:, :3]


def radiograph(sources):
    image = sources[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image.Modality = "CR"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"):
        delattr(image, keyword)
    return image


def stored(dataset):
    """The object as another program reads it from its file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def test_a_box_comes_back_with_its_place_on_every_slice_and_in_the_patient(sources):
    corners = box(sources, (10, 5, 3), (19, 11, 6))
    dataset = stored(sr.write(sources[::-1], findings=[Finding("Nodule", 0.875, corners)], algorithm=DETECTOR))
    report = sr.read(dataset)
    assert dataset.SOPClassUID == Comprehensive3DSRStorage
    assert report.algorithm == ("Nodule detector", "4")
    (finding,) = report.findings
    assert (finding.label, finding.score) == ("Nodule", 0.875)
    # Voxels 10 to 19 and 5 to 11: in SR the first pixel reaches from 0 to 1.
    for region in finding.regions:
        np.testing.assert_allclose(region.points, [[10, 5], [20, 5], [20, 12], [10, 12]], atol=1e-4)
    uids = [region.sop_instance_uid for region in finding.regions]
    assert set(uids) == {sources[k].SOPInstanceUID for k in (3, 4, 5, 6)}
    assert len(uids) == 4
    assert uids[0] in (sources[4].SOPInstanceUID, sources[5].SOPInstanceUID)  # viewers show the first one
    np.testing.assert_allclose(finding.box[[0, 7]], corners, atol=1e-3)
    assert len(np.unique(finding.box.round(2), axis=0)) == 8


def test_highdicom_finds_the_same_group_and_numbers(sources):
    corners = box(sources, (10, 5, 3), (19, 11, 6))
    dataset = stored(sr.write(sources, findings=[Finding("Nodule", 0.875, corners)], algorithm=DETECTOR))
    theirs = hd.sr.Comprehensive3DSR.from_dataset(dataset).content.get_image_measurement_groups()
    (group,) = theirs
    assert group.finding_type == pydicom.sr.codedict.codes.SCT.Nodule
    assert group.tracking_identifier.startswith("Cornerstone3DTools@^0.1.0:RectangleROI")
    certainty, length = group.get_measurements()
    assert (certainty.value, certainty.unit.value) == (87.5, "%")
    assert length.value == pytest.approx(4 * 2.5)  # slices 3 to 6, 2.5 mm each; 10 columns are 6 mm
    assert length.unit.value == "mm"
    assert dataset.StudyInstanceUID == sources[0].StudyInstanceUID
    assert dataset.VerificationFlag == "UNVERIFIED"


def test_a_box_on_a_radiograph_has_a_rectangle_and_no_place_in_a_patient(sources):
    image = radiograph(sources)
    rows, columns = image.PixelSpacing
    corners = np.array([[20 * columns, 8 * rows, 0], [30 * columns, 18 * rows, 0]])
    dataset = stored(sr.write([image], findings=[Finding("Opacity", 0.5, corners)], algorithm=DETECTOR))
    assert dataset.SOPClassUID == ComprehensiveSRStorage
    (finding,) = sr.read(dataset).findings
    assert finding.box is None
    np.testing.assert_allclose(
        finding.regions[0].points, [[20.5, 8.5], [30.5, 8.5], [30.5, 18.5], [20.5, 18.5]], atol=1e-4
    )
    assert finding.regions[0].sop_instance_uid == image.SOPInstanceUID


def test_a_point_lies_on_the_nearest_slice(sources):
    place = from_datasets(sources).affine @ [7, 30, 4.3, 1]
    dataset = stored(
        sr.write(sources, findings=[Finding("Nodule", 0.25, np.array([place[:3]] * 2))], algorithm=DETECTOR)
    )
    (region,) = sr.read(dataset).findings[0].regions
    np.testing.assert_allclose(region.points, [[7.5, 30.5]], atol=1e-4)
    assert region.sop_instance_uid == sources[4].SOPInstanceUID


def test_a_box_between_two_slices_and_one_beyond_the_image_are_drawn_where_they_can_be(sources):
    affine = from_datasets(sources).affine
    thin = (np.array([[10, 5, 3.6, 1], [12, 8, 3.9, 1]]) @ affine.T)[:, :3]
    beyond = (np.array([[-9, 5, 7.2, 1], [12, 99, 30, 1]]) @ affine.T)[:, :3]
    found = [Finding("Nodule", 0.4, thin), Finding("Nodule", 0.3, beyond)]
    first, second = sr.read(stored(sr.write(sources, findings=found, algorithm=DETECTOR))).findings
    assert [region.sop_instance_uid for region in first.regions] == [sources[4].SOPInstanceUID]
    assert [region.sop_instance_uid for region in second.regions] == [sources[8].SOPInstanceUID]
    assert second.regions[0].points.min() == 0
    assert second.regions[0].points[:, 1].max() == 40
    assert first.tracking_uid != second.tracking_uid


def test_classes_decisions_and_values_come_back(sources):
    scores = {"Pneumonia": 0.8125, "Weiß nicht": 1 / 3}
    dataset = stored(
        sr.write(
            [radiograph(sources)],
            scores=scores,
            present={"Pneumonia": True, "Weiß nicht": False, "Pleural effusion": False},
            values=[Value("Bone age", 101.25, "mo"), Value("Ratio", -0.5)],
            algorithm=Algorithm("Chest", "2"),
        )
    )
    report = sr.read(dataset)
    assert report.scores == pytest.approx(scores, abs=1e-12)
    assert report.present == {"Pneumonia": True, "Weiß nicht": False, "Pleural effusion": False}
    assert report.values == (Value("Bone age", 101.25, "mo"), Value("Ratio", -0.5))
    assert report.findings == ()
    assert report.algorithm == ("Chest", "2")


def test_names_are_coded_by_snomed_or_the_labels_own_code_and_keep_the_models_word(sources):
    labels = [{"number": 1, "name": "Round thing", "type": ["27925004", "SCT", "Nodule"]}]
    dataset = sr.write(
        sources, scores={"Nodule": 0.5, "Round thing": 0.5, "No finding": 0.5}, labels=labels, algorithm=DETECTOR
    )
    groups = hd.sr.ComprehensiveSR.from_dataset(stored(dataset)).content.get_image_measurement_groups()
    found = [(g.finding_type.value, g.finding_type.scheme_designator, g.finding_type.meaning) for g in groups]
    assert found == [
        ("27925004", "SCT", "Nodule"),
        ("27925004", "SCT", "Round thing"),
        ("NOFINDING", "99READROOM", "No finding"),
    ]


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_report_without_a_complaint(sources, tmp_path):
    corners = box(sources, (10, 5, 3), (19, 11, 6))
    dataset = sr.write(
        sources,
        findings=[Finding("Nodule", 0.875, corners), Finding("Nodule", 0.5, np.array([corners[0]] * 2))],
        scores={"Pneumonia": 0.25},
        present={"Mass": False},
        values=[Value("Age", 61.5, "a")],
        algorithm=DETECTOR,
    )
    dataset.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    # It checks value types and relationships against the IOD of the SOP class.
    done = subprocess.run(["dsrdump", tmp_path / "report.dcm"], capture_output=True, text=True, check=True)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "W:", "F:"))]
    assert [line for line in complaints if "does not support this Specific Character Set" not in line] == []
    assert "Certainty of Finding" in done.stdout
    assert "87.5" in done.stdout


def test_what_is_no_report_or_says_nothing_is_refused(sources):
    with pytest.raises(ReportError) as caught:
        sr.read(sources[0])
    assert caught.value.code == "not_a_report"
    with pytest.raises(ReportError) as caught:
        sr.write(sources, algorithm=DETECTOR)
    assert caught.value.code == "empty"
    with pytest.raises(ReportError) as caught:
        sr.write(sources, scores={"Mass": 1.5}, algorithm=DETECTOR)
    assert caught.value.code == "score"
