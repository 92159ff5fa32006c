"""Changes of the pixel data itself: marked places filled, bits cleared that the image does not use."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from studies.deid.burned_in import Box, blanked
from studies.deid.errors import DeidError


def blank(dataset: Dataset, boxes: list[Box]) -> None:
    """Fill the boxes in every frame with the darkest value; the object becomes uncompressed, colours RGB.

    Raises `DeidError` (`unreadable`).
    """
    try:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress()
        array = dataset.pixel_array
    except Exception as error:  # decoders raise whatever they like
        raise DeidError(
            "unreadable", "The pixels of a series that is to be blanked cannot be decoded.", "Keep the series back."
        ) from error
    colour = int(dataset.get("SamplesPerPixel") or 1) > 1
    interpretation = str(dataset.get("PhotometricInterpretation", ""))
    value: int | list[int] = int(array.max() if interpretation == "MONOCHROME1" else array.min())
    if colour:
        middle = 1 << (int(dataset.BitsStored) - 1)
        value = [0, middle, middle] if interpretation.startswith("YBR") else [0, 0, 0]
    frames = array if int(dataset.get("NumberOfFrames") or 1) > 1 else array[None]
    filled = np.stack([blanked(frame, boxes, value) for frame in frames])
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _store(dataset, filled)


def clear_overlay_bits(dataset: Dataset) -> bool:
    """Clear the bits above BitsStored of an uncompressed image that has a retired overlay in them (PS3.5 8.1.2).

    Returns whether there was one. Raises `DeidError` (`overlay`) where it lies in compressed data.
    """
    groups = range(0x6000, 0x6020, 2)
    positions = [dataset[group, 0x0102].value for group in groups if (group, 0x0102) in dataset]
    embedded = any(int(position or 0) > 0 for position in positions)
    if not embedded or "PixelData" not in dataset:
        return False
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        raise DeidError("overlay", "An overlay lies in unused bits of compressed pixels.", "Leave out its series.")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated != 16 or stored >= 16:
        return False
    high = int(dataset.HighBit)
    mask = ((1 << stored) - 1) << (high - stored + 1)
    order = "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
    words = np.frombuffer(dataset.PixelData, order) & np.uint16(mask)
    if int(dataset.PixelRepresentation) and high == stored - 1:  # the sign fills the bits above
        words = words | np.where(words & np.uint16(1 << high), np.uint16(~mask & 0xFFFF), np.uint16(0))
    dataset.PixelData = words.astype(order).tobytes()
    return True


def _store(dataset: Dataset, array: np.ndarray) -> None:
    data = np.ascontiguousarray(array).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if int(dataset.BitsAllocated) > 8 else "OB"
