"""A single image without a place in the patient (radiograph, photograph, scan) as a volume of one slice."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, pixel_array

from studies.dicom.errors import PixelError
from studies.dicom.volume import Volume

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in YBR_FULL (PS3.3 C.7.6.3.1.2)


def from_dataset(dataset: Dataset) -> Volume:
    """Modality values [1, y, x] of a single-frame image; colour becomes its luminance.

    MONOCHROME1 is inverted, so that high values are bright in every image. The spacing is PixelSpacing, or
    ImagerPixelSpacing (at the detector), or 1 mm where neither is known. Raises `PixelError`.
    """
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise PixelError(
            "The object holds several frames that do not say where they lie.", "Choose a single image.", code="frames"
        )
    try:
        pixels = pixel_array(dataset)
    except Exception as error:  # decoders raise whatever they like
        raise PixelError(
            f"The pixels of an image cannot be decoded ({type(error).__name__}).",
            "The file is probably truncated or damaged: import it again from its source.",
            code="undecodable",
        ) from error
    if pixels.ndim == 3:  # pydicom hands colour out as RGB
        values = (pixels.astype(np.float64) @ np.array(LUMINANCE)).astype(np.float32)
    else:
        values = apply_modality_lut(pixels, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        values = _inverted(values, dataset, pixels.dtype)
    return Volume(values[None], (1.0, *_spacing(dataset)))


def _inverted(values: np.ndarray, dataset: Dataset, stored: np.dtype) -> np.ndarray:
    """Mirrored within the range that the bits allow, so that images of one device stay comparable."""
    bits = int(dataset.BitsStored)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if stored.kind == "i" else (0, (1 << bits) - 1)
    ends = apply_modality_lut(np.array([low, high], dtype=stored), dataset)
    return (float(ends[0]) + float(ends[1]) - values).astype(values.dtype)


def _spacing(dataset: Dataset) -> tuple[float, float]:
    found = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    return (float(found[0]), float(found[1])) if found else (1.0, 1.0)
