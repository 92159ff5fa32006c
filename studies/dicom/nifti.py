"""NIfTI files read for import: stored values, and geometry turned from RAS into DICOM's LPS.

Source: NIfTI-1 (nifti1.h), as nibabel reads it: the sform where it is set, else the qform.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from studies.dicom.errors import ImageError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNIT_MM = {"meter": 1000.0, "micron": 0.001}
SUFFIXES = (".nii.gz", ".nii")
# Cosines between axes below this count as right angles; a single-precision header is good for about 1e-6.
SHEAR = 1e-3
MAX_BYTES = 4 << 30  # of the voxels of one file
# Image and mask lie on the same grid where their corners differ by less than this many mm.
SAME_PLACE = 1e-2


class NiftiError(ImageError):
    code = "nifti"


@dataclass(frozen=True)
class Nifti:
    """Raw values [z, y, x], value = raw × slope + intercept, and the affine (x, y, z) index → LPS mm."""

    raw: np.ndarray
    slope: float
    intercept: float
    affine: np.ndarray

    def values(self) -> np.ndarray:
        if self.slope == 1.0 and self.intercept == 0.0:
            return self.raw
        return self.raw.astype(np.float64) * self.slope + self.intercept

    @property
    def digest(self) -> str:
        """SHA-256 over values and geometry; compression and header comments do not count."""
        digest = hashlib.sha256(repr((self.raw.shape, self.raw.dtype.str, self.slope, self.intercept)).encode())
        digest.update(np.round(self.affine, 6).tobytes())
        digest.update(np.ascontiguousarray(self.raw).tobytes())
        return digest.hexdigest()


def stem(path: Path) -> str:
    """The file name without `.nii` or `.nii.gz`."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def read(path: Path) -> Nifti:
    """A 3-D NIfTI file. Raises `NiftiError` with code `unreadable`, `not_3d`, `not_scalar`, `too_large`, `affine` or
    `sheared`."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one as well
            raise NiftiError("The file is not NIfTI.", "Give .nii or .nii.gz files.", code="unreadable")
        _check_size(image)
        proxy: Any = image.dataobj
        raw = np.asanyarray(proxy.get_unscaled())
        slope, intercept = float(proxy.slope), float(proxy.inter)
    except NiftiError:
        raise
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError, OverflowError) as error:
        raise NiftiError(
            f"The file cannot be read to its end ({type(error).__name__}): it is truncated, damaged or not NIfTI.",
            "Copy or download it again.",
            code="unreadable",
        ) from error
    while raw.ndim > 3:
        raw = raw[..., 0]
    return Nifti(raw.transpose(2, 1, 0), slope, intercept, _lps_affine(image))


def _check_size(image: nib.Nifti1Image) -> None:
    """What the header says, before a byte of the voxels is read: a packed file may hold a thousand times its size."""
    kind, shape = image.get_data_dtype(), list(image.shape)
    if kind.kind not in "iufb":
        raise NiftiError(
            f"The voxels are {kind} (colour or complex); one number per voxel is needed.",
            "Convert the file to a grey-scale volume.",
            code="not_scalar",
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or 0 in shape:
        raise NiftiError(
            f"The file has the shape {'×'.join(map(str, shape))}; a single 3-D volume is needed.",
            "Split a time series or several channels into one file each.",
            code="not_3d",
        )
    size = math.prod(shape) * kind.itemsize
    if size > MAX_BYTES:
        raise NiftiError(
            f"The volume has {size:,} bytes unpacked; {MAX_BYTES:,} are allowed.",
            "Crop or resample it.",
            code="too_large",
        )


def _lps_affine(image: nib.Nifti1Image) -> np.ndarray:
    affine = np.asarray(image.affine, dtype=np.float64)
    unit = UNIT_MM.get(image.header.get_xyzt_units()[0], 1.0)
    affine = RAS_TO_LPS @ np.diag([unit, unit, unit, 1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (spacing < 1e-6).any():
        raise NiftiError(
            "The header gives no usable voxel size or position.", "Correct the file's sform or qform.", code="affine"
        )
    cosines = affine[:3, :3] / spacing
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SHEAR:
        raise NiftiError(
            "The axes of the volume are not at right angles; a DICOM series cannot hold a sheared grid.",
            "Resample the volume to right angles.",
            code="sheared",
        )
    return affine


def same_grid(one: Nifti, other: Nifti) -> bool:
    """Whether both have the same shape and their corner voxels lie at the same places."""
    if one.raw.shape != other.raw.shape:
        return False
    depth, rows, columns = one.raw.shape
    corners = np.array([[x, y, z, 1] for x in (0, columns - 1) for y in (0, rows - 1) for z in (0, depth - 1)]).T
    return bool(np.abs((one.affine - other.affine) @ corners).max() < SAME_PLACE)
