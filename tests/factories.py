"""Rows and files that tests start from. DICOM files are small but real, and go in through the store."""

from __future__ import annotations

import io
import struct
from typing import Any

import factory
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from portal.accounts.models import Membership, Project, Role, User
from studies.ingest import store
from studies.models import ImportBatch, Origin, Series

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"user{n}")
    email = factory.LazyAttribute(lambda user: f"{user.username}@example.org")
    password = factory.django.Password("correct horse battery")


class ProjectFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Project

    slug = factory.Sequence(lambda n: f"project-{n}")
    name = factory.LazyAttribute(lambda project: project.slug.title())


class MembershipFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Membership

    project = factory.SubFactory(ProjectFactory)
    user = factory.SubFactory(UserFactory)
    role = Role.MANAGER


def member(project: Project, role: Role = Role.MANAGER, **user: Any) -> User:
    """A user who has `role` in `project`."""
    return MembershipFactory(project=project, role=role, user=UserFactory(**user)).user


def ct_pixels(k: int, rows: int = 32, columns: int = 40) -> np.ndarray:
    """Slice k of the test volume, stored values: 1000 + k at the background, a ramp of x + 2y inside a box."""
    image = np.full((rows, columns), 1000 + k, np.int16)
    y, x = np.mgrid[0:rows, 0:columns]
    box = (y >= rows // 4) & (y < rows // 2) & (x >= columns // 4) & (x < columns // 2)
    image[box] = (x + 2 * y)[box]
    return image


def patient_pixels(patient_id: str, image: np.ndarray) -> np.ndarray:
    """The lower half of a slice with coarse squares of ±150 that differ from patient to patient: no two patients look
    the same. Patient P1 has none."""
    if patient_id == "P1":
        return image
    rows, columns = image.shape
    random = np.random.default_rng(list(patient_id.encode()))
    squares = random.choice([-150, 150], (4, 8))
    y, x = np.mgrid[0 : rows - rows // 2, 0:columns]
    image = image.copy()
    image[rows // 2 :] += squares[4 * y // (rows - rows // 2), 8 * x // columns].astype(image.dtype)
    return image


def ct_slice(k: int = 0, *, rows: int = 32, columns: int = 40, **overrides: Any) -> Dataset:
    """One axial CT slice: spacing 0.8 × 0.7 mm (row, column), slices 2.5 mm apart, rescale intercept -1024.

    `overrides` are DICOM keywords; None removes an element.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CT_IMAGE_STORAGE,
        "SOPInstanceUID": generate_uid(),
        "StudyDate": "20240315",
        "SeriesDate": "20240315",
        "ContentDate": "20240315",
        "StudyTime": "101500",
        "AccessionNumber": "ACC1",
        "Modality": "CT",
        "Manufacturer": "Readroom test",
        "ReferringPhysicianName": "Referrer^Rita",
        "StudyDescription": "Test CT chest",
        "SeriesDescription": "Axial",
        "PatientName": "Test^Tessa",
        "PatientID": "P1",
        "PatientBirthDate": "19600101",
        "PatientSex": "F",
        "BodyPartExamined": "CHEST",
        "SliceThickness": "2.5",
        "KVP": "120",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": k + 1,
        "ImagePositionPatient": [-14.0, -12.8, 2.5 * k],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "FrameOfReferenceUID": generate_uid(),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "PixelSpacing": [0.8, 0.7],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "WindowCenter": 40,
        "WindowWidth": 400,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "PixelData": patient_pixels(str(overrides.get("PatientID") or "P1"), ct_pixels(k, rows, columns))
        .astype("<i2")
        .tobytes(),
    }
    for keyword, value in (values | overrides).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
    return dataset


def ct_datasets(n_slices: int = 3, **overrides: Any) -> list[Dataset]:
    """The slices of one series, in order from foot to head."""
    shared = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }
    return [ct_slice(k, **(shared | overrides)) for k in range(n_slices)]


def part10_bytes(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def make_ct_series(
    project: Project,
    n_slices: int = 3,
    *,
    origin: Origin = Origin.ACQUIRED,
    created_by: User | None = None,
    provenance: str = "",
    **overrides: Any,
) -> Series:
    """A CT series of `n_slices` small slices, stored in `project`; `overrides` as for `ct_slice`."""
    return store_datasets(
        project, ct_datasets(n_slices, **overrides), origin=origin, created_by=created_by, provenance=provenance
    )


def store_datasets(project: Project, datasets: list[Dataset], **how: Any) -> Series:
    """Store data sets of one series and return it."""
    batch = store.open_batch(project, ImportBatch.Source.COMMAND)
    sources = [(part10_bytes(dataset), f"{k}.dcm") for k, dataset in enumerate(datasets)]
    outcomes = list(store.store_files(sources, batch=batch, **how))
    refused = [f"{outcome.code}: {outcome.reason}" for outcome in outcomes if outcome.refused]
    if refused:
        raise AssertionError(refused)
    assert outcomes[0].instance is not None
    return Series.objects.get(pk=outcomes[0].instance.series_id)


def nested_sequences(depth: int) -> bytes:
    """A CT slice whose header holds `depth` nested sequences of undefined length, as an attacker would write it."""
    opening = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = part10_bytes(ct_slice())
    at = whole.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    return whole[:at] + opening * depth + closing * depth + whole[at:]
