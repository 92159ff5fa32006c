"""A volume as a NIfTI file that says nothing but its voxels and where they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset

from studies.dicom.volume import Volume, from_datasets


def image(volume: Volume) -> nibabel.Nifti1Image:
    """RAS millimetres; rows are turned over so that the second axis points to the patient's front in axial images, as
    dcm2niix does."""
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = volume.shape[1] - 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine @ flip
    made = nibabel.Nifti1Image(np.ascontiguousarray(volume.array.transpose(2, 1, 0)[:, ::-1]), affine)
    made.header.set_xyzt_units("mm", "sec")
    made.header["descrip"] = b"de-identified"
    made.set_qform(affine, code=1)
    made.set_sform(affine, code=1)
    return made


def save(datasets: Iterable[Dataset], path: Path) -> None:
    """Raises `ImageError` where the images make no volume."""
    nibabel.save(image(from_datasets(datasets)), path)  # type: ignore[attr-defined]


def header_text(path: Path) -> str:
    """Everything of a file but its voxels, one character for each byte."""
    read = nibabel.load(path)
    extensions = b"".join(bytes(extension.get_content()) for extension in read.header.extensions)  # type: ignore[attr-defined]
    return (read.header.binaryblock + extensions).decode("latin-1")  # type: ignore[attr-defined]
