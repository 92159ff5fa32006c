"""NIfTI volumes: the same voxels at the same places as Debian's dcm2niix, and nothing else."""

from __future__ import annotations

import shutil
import subprocess

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from studies.deid import nifti
from tests.factories import ct_datasets

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
START = np.array([-31.3, 12.7, 88.1])


def rotated(*degrees: float) -> np.ndarray:
    """Rows: directions along a row and down a column, turned about x, y and z one after the other."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[one, one] = step[other, other] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn[:, :2].T


ORIENTATIONS = {
    "axial": np.array([[1, 0, 0], [0, 1, 0]]),
    "coronal": np.array([[1, 0, 0], [0, 0, -1]]),
    "sagittal": np.array([[0, 1, 0], [0, 0, -1]]),
    "feet first": np.array([[-1, 0, 0], [0, 1, 0]]),
    "in-plane oblique": rotated(0, 0, 16),
    "double oblique": rotated(21, -13, 0),
    "triple oblique": rotated(17, 24, -9),
}


def stack(orientation: np.ndarray, *, step: float, **values) -> list[Dataset]:
    """Seven slices, `step` mm apart along the normal; negative counts them against it."""
    datasets = ct_datasets(7, ImageOrientationPatient=[float(f"{x:.9g}") for x in orientation.ravel()], **values)
    normal = np.cross(*orientation)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [float(f"{x:.9g}") for x in START + k * step * normal]
        dataset.SliceThickness = abs(step)
    return datasets


def enhanced(orientation: np.ndarray, *, step: float) -> Dataset:
    """The same as one enhanced multi-frame MR object (PS3.3 A.36)."""
    frames = stack(orientation, step=step)
    shared, plane, thick, scale = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = frames[0].ImageOrientationPatient
    thick.PixelSpacing, thick.SliceThickness = frames[0].PixelSpacing, abs(step)
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, 0, "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([thick])
    shared.PixelValueTransformationSequence = Sequence([scale])
    whole = frames[0]
    per_frame = []
    for k, frame in enumerate(frames, start=1):
        group, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = frame.ImagePositionPatient
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", k, [1, k]
        group.PlanePositionSequence, group.FrameContentSequence = Sequence([position]), Sequence([content])
        per_frame.append(group)
    pixels = b"".join(frame.PixelData for frame in frames)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):  # fmt: skip
        delattr(whole, keyword)
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = ENHANCED_MR_IMAGE_STORAGE
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    whole.Modality, whole.NumberOfFrames, whole.InstanceNumber = "MR", len(frames), 1
    whole.PixelRepresentation = 0
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    whole.PixelData = pixels
    whole["PixelData"].VR = "OW"
    return whole


def compared(datasets: list[Dataset], tmp_path) -> nibabel.Nifti1Image:
    """Ours, after it was found to be what dcm2niix makes of the same files."""
    source, folder = tmp_path / "source", tmp_path / "theirs"
    source.mkdir()
    folder.mkdir()
    for k, dataset in enumerate(datasets):
        dataset.save_as(source / f"{k:03d}.dcm", enforce_file_format=True)
    nifti.save(datasets, tmp_path / "ours.nii.gz")
    subprocess.run(["dcm2niix", "-o", folder, "-f", "x", "-z", "n", source], check=True, capture_output=True)
    (made,) = folder.glob("*.nii")
    ours, theirs = nibabel.load(tmp_path / "ours.nii.gz"), nibabel.load(made)
    assert ours.shape == theirs.shape
    # Each may count slices from either end: the same voxel lies at the same place.
    one, other = nibabel.as_closest_canonical(ours), nibabel.as_closest_canonical(theirs)
    assert np.abs(one.affine - other.affine).max() < 1e-3
    assert np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj))
    return ours


needs_dcm2niix = pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="Debian's dcm2niix is not installed")


@needs_dcm2niix
@pytest.mark.parametrize("step", [2.5, -2.5], ids=["along the normal", "against the normal"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_ct_has_the_geometry_of_dcm2niix(tmp_path, orientation, step):
    compared(stack(ORIENTATIONS[orientation], step=step), tmp_path)


@needs_dcm2niix
@pytest.mark.parametrize("orientation", ["axial", "sagittal", "triple oblique"])
def test_mr_has_the_geometry_of_dcm2niix(tmp_path, orientation):
    mr = stack(
        ORIENTATIONS[orientation], step=3.3, Modality="MR", SOPClassUID=MR_IMAGE_STORAGE, RescaleSlope=None,
        RescaleIntercept=None, EchoTime="12", RepetitionTime="900", ScanningSequence="SE", KVP=None,
    )  # fmt: skip
    compared(mr, tmp_path)


@needs_dcm2niix
@pytest.mark.parametrize("step", [2.5, -2.5])
@pytest.mark.parametrize("orientation", ["axial", "double oblique"])
def test_a_multi_frame_object_has_the_geometry_of_dcm2niix(tmp_path, orientation, step):
    compared([enhanced(ORIENTATIONS[orientation], step=step)], tmp_path)


def test_the_header_says_nothing_about_the_patient(tmp_path):
    datasets = stack(
        ORIENTATIONS["axial"], step=2.5, PatientName="Zubkov^W", StudyDescription="Zubkov", PatientID="ZZ7"
    )
    nifti.save(datasets, tmp_path / "x.nii.gz")
    header = nibabel.load(tmp_path / "x.nii.gz").header
    assert header["descrip"].item() == b"de-identified"
    assert [header[name].item() for name in ("aux_file", "intent_name", "db_name")] == [b"", b"", b""]
    assert header["intent_code"] == 0
    assert len(header.extensions) == 0
    assert (int(header["qform_code"]), int(header["sform_code"]), header.get_xyzt_units()[0]) == (1, 1, "mm")
    assert "zubkov" not in nifti.header_text(tmp_path / "x.nii.gz").lower()


def test_the_affine_maps_voxels_to_ras_millimetres(tmp_path):
    nifti.save(stack(ORIENTATIONS["axial"], step=2.5), tmp_path / "x.nii.gz")
    affine = nibabel.load(tmp_path / "x.nii.gz").affine
    # The last row of the picture comes first: 31 rows of 0.8 mm below the first (PS3.3 C.7.6.2: LPS; NIfTI: RAS).
    assert affine[:3, 3] == pytest.approx([31.3, -(12.7 + 31 * 0.8), 88.1], abs=1e-4)
    assert np.diag(affine)[:3] == pytest.approx([-0.7, 0.8, 2.5], abs=1e-5)
