"""A volume as a series of single-frame CT or MR images (PS3.3 A.3, A.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from studies.dicom.errors import PixelError
from studies.dicom.uids import derived_uid

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
MANUFACTURER = "Readroom"
# Values are quantised to 16 bits; more than this part of the spread of most values would be a visible loss.
LARGEST_STEP = 1e-3


@dataclass(frozen=True)
class Stored:
    """16-bit stored values; modality value = stored × slope + intercept.

    step: the quantisation step in modality units, 0 where the values are kept exactly.
    """

    array: np.ndarray  # int16 or uint16, [z, y, x]
    slope: float = 1.0
    intercept: float = 0.0
    step: float = 0.0

    def values(self) -> np.ndarray:
        return self.array.astype(np.float64) * self.slope + self.intercept


@dataclass(frozen=True)
class Identity:
    """Whose images they are and how they are called. UIDs derive from `key`, so the same key gives the same objects."""

    patient_id: str
    key: str
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_description: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    image_comments: str = ""
    synthetic: bool = False  # Synthetic Data (0008,001C)

    @property
    def study_instance_uid(self) -> str:
        return derived_uid(self.key, "study")

    @property
    def series_instance_uid(self) -> str:
        return derived_uid(self.key, "series")

    def sop_instance_uid(self, index: int) -> str:
        return derived_uid(self.key, "instance", index)


def encode(raw: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Stored:
    """Values `raw × slope + intercept` as 16-bit stored values.

    Whole numbers within 16 bits, or within a range of 65,536, are kept exactly. Other values are quantised to 65,536
    steps between their smallest and largest; each comes back to within half a step.
    Raises `PixelError` with code `not_finite` or `range`.
    """
    if raw.dtype.kind == "b":
        raw = raw.astype(np.uint8)
    if raw.dtype.kind == "f":
        bad = int(raw.size - np.isfinite(raw).sum())
        if bad:
            raise PixelError(
                f"{bad} of {raw.size} voxels are not finite numbers (NaN or infinite).",
                "Replace them, for example by the value of air, and import the file again.",
                code="not_finite",
            )
        if slope != 1.0 or intercept != 0.0:
            raw, slope, intercept = raw.astype(np.float64) * slope + intercept, 1.0, 0.0
    lowest, highest = (raw.min(), raw.max()) if raw.size else (0, 0)
    whole = raw.dtype.kind in "iu" or (abs(lowest) < 2**53 and abs(highest) < 2**53 and not (raw % 1).any())
    if whole:
        low, high = int(lowest), int(highest)
        if low >= -32768 and high <= 32767:
            return Stored(raw.astype(np.int16), slope, intercept)
        if low >= 0 and high <= 65535:
            return Stored(raw.astype(np.uint16), slope, intercept)
        if high - low <= 65535:
            return Stored((raw.astype(np.int64) - low).astype(np.uint16), slope, low * slope + intercept)
    return _quantised(raw.astype(np.float64) * slope + intercept)


def _quantised(values: np.ndarray) -> Stored:
    low, high = float(values.min()), float(values.max())
    # Headers hold 16 characters, so the slope and intercept that count are those that a reader will see.
    intercept = float(format_number_as_ds(low))
    slope = float(format_number_as_ds((high - intercept) / 65535)) or 1.0
    others = values[values != np.median(values)]  # most voxels of a map may be background
    most = np.percentile(others, [1, 99]) if others.size else np.zeros(2)
    if slope > LARGEST_STEP * (most[1] - most[0]) > 0:
        raise PixelError(
            f"The values reach from {low:.4g} to {high:.4g} while most lie between {most[0]:.4g} and {most[1]:.4g};"
            " 16 bits cannot hold both.",
            "Clip outliers or fill values, and import the file again.",
            code="range",
        )
    stored = np.clip(np.rint((values - intercept) / slope), 0, 65535).astype(np.uint16)
    return Stored(stored, slope, intercept, step=slope)


def image_series(stored: Stored, affine: np.ndarray, identity: Identity, *, modality: str) -> list[Dataset]:
    """One image per slice of `stored.array`, at the place that `affine` gives it.

    affine: 4×4, (x, y, z) index to LPS mm, with axes at right angles; the z axis may point either way.
    Dates stay empty unless the identity has them, so that the same input gives the same bytes.
    """
    steps = affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    cosines = steps / spacing
    window = _window(stored, modality)
    comparable = Dataset()
    _patient_and_study(comparable, identity, modality)
    _equipment(comparable, modality)
    comparable.ImageOrientationPatient = [_ds(value) for value in np.concatenate([cosines[:, 0], cosines[:, 1]])]
    comparable.PixelSpacing = [_ds(spacing[1]), _ds(spacing[0])]
    comparable.SliceThickness = comparable.SpacingBetweenSlices = _ds(spacing[2])
    if modality == "CT":
        del comparable.SpacingBetweenSlices  # not an attribute of CT images
    if modality == "CT" or stored.slope != 1.0 or stored.intercept != 0.0:
        comparable.RescaleSlope, comparable.RescaleIntercept = _ds(stored.slope), _ds(stored.intercept)
        comparable.RescaleType = "HU" if modality == "CT" else "US"
    comparable.WindowCenter, comparable.WindowWidth = (_ds(value) for value in window)
    comparable.SamplesPerPixel, comparable.PhotometricInterpretation = 1, "MONOCHROME2"
    comparable.BitsAllocated = comparable.BitsStored = 16
    comparable.HighBit = 15
    comparable.PixelRepresentation = int(stored.array.dtype.kind == "i")
    comparable.Rows, comparable.Columns = stored.array.shape[1:]
    return [_image(comparable, identity, index, affine, plane) for index, plane in enumerate(stored.array)]


def _image(comparable: Dataset, identity: Identity, index: int, affine: np.ndarray, plane: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.update(comparable)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance_uid(index))
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [_ds(value) for value in (affine @ [0, 0, index, 1])[:3]]
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder("<"))).tobytes())
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    return dataset


def _patient_and_study(dataset: Dataset, identity: Identity, modality: str) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"] if modality == "CT" else ["DERIVED", "PRIMARY", "OTHER"]
    dataset.SOPClassUID = SOP_CLASSES[modality]
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = identity.study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = ""
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality = modality
    dataset.StudyDescription = identity.study_description[:64]
    dataset.SeriesDescription = identity.series_description[:64]
    dataset.PatientName = identity.patient_name
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = identity.patient_birth_date, identity.patient_sex
    dataset.StudyInstanceUID = identity.study_instance_uid
    dataset.SeriesInstanceUID = identity.series_instance_uid
    dataset.FrameOfReferenceUID = derived_uid(identity.key, "frame of reference")
    dataset.PositionReferenceIndicator = dataset.Laterality = ""
    dataset.SeriesNumber, dataset.AcquisitionNumber = 1, 1
    if identity.body_part_examined:
        dataset.BodyPartExamined = identity.body_part_examined
    if identity.image_comments:
        dataset.ImageComments = identity.image_comments
    if identity.synthetic:
        dataset.SyntheticData = "YES"


def _equipment(dataset: Dataset, modality: str) -> None:
    dataset.Manufacturer = MANUFACTURER
    if modality == "CT":
        dataset.KVP = ""
        return
    # Research mode: how the images were acquired is not known any more.
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = ""


def _window(stored: Stored, modality: str) -> tuple[float, float]:
    """Centre and width for a first look: soft tissue in CT, most of the values in MR."""
    if modality == "CT":
        return 40.0, 400.0
    low, high = np.percentile(stored.array, [0.5, 99.5]) * stored.slope + stored.intercept
    return float(low + high) / 2, max(float(high - low), 1.0)


def _ds(value: float) -> str:
    return format_number_as_ds(float(value) + 0.0)


def in_slice_order(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An array on the grid of `affine` in the order in which `volume.from_datasets` sorts slices."""
    return array[::-1] if np.linalg.det(affine[:3, :3]) < 0 else array
