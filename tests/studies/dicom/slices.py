"""Series of single-frame images with a chosen geometry, built by hand for tests."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Rotation matrix for angles in degrees about the three axes."""
    a, b, c = np.radians([x, y, z])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def series(
    array: np.ndarray,
    *,
    spacing=(2.5, 0.8, 0.6),
    origin=(-12.0, 30.0, 7.5),
    direction=None,
    slope=1.0,
    intercept=0.0,
) -> list[Dataset]:
    """CT slices of `array` [z, y, x] (int16) with the geometry of a `Volume`, in the order of z."""
    direction = np.eye(3) if direction is None else direction
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    datasets = []
    for z, plane in enumerate(array):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, uid, frame
        dataset.Modality = "CT"
        dataset.PatientID, dataset.PatientName = "P1", "Test^Patient"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
        dataset.StudyDate, dataset.StudyTime, dataset.ReferringPhysicianName = "20200101", "120000", ""
        dataset.SeriesNumber, dataset.InstanceNumber = 1, z + 1
        dataset.ImagePositionPatient = [float(v) for v in np.asarray(origin) + z * spacing[0] * direction[:, 2]]
        dataset.ImageOrientationPatient = [float(v) for v in np.concatenate([direction[:, 0], direction[:, 1]])]
        dataset.PixelSpacing = [spacing[1], spacing[2]]
        dataset.SliceThickness = spacing[0]
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.PixelData = plane.astype("<i2").tobytes()
        datasets.append(dataset)
    return datasets


def write_series(datasets: list[Dataset], folder) -> None:
    for dataset in datasets:
        dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
