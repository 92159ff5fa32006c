"""A frame as an 8-bit picture: modality LUT, VOI LUT or window, MONOCHROME1, palette and colour (PS3.3 C.7.6.3,
C.11.1, C.11.2; PS3.4 N.2). Values in, values out; files are read by the caller's path only."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, pixel_array

from studies.dicom import part10
from studies.dicom.codestream import dimensions
from studies.dicom.frame_table import frame_table

MAX_SAMPLES = 100_000_000  # of one frame
MAX_FRAME = 1 << 29  # bytes of one frame
MAX_INFLATED = 1 << 28  # bytes of a deflated data set
MAX_WHOLE = 1 << 29  # bytes of a file whose frames cannot be reached one by one
STRIP = 1 << 20  # samples that are computed at a time
_JPEG_HEAD = 1 << 18  # bytes in which a codestream says its size

# What a picture depends on; a header may hold a million elements.
_TAGS: list[Any] = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence", "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "AlphaPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "AlphaPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "SegmentedAlphaPaletteColorLookupTableData",
    "PaletteColorLookupTableUID", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


class RenderError(Exception):
    """A frame that has no picture; the text says why."""


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2): LINEAR, LINEAR_EXACT or SIGMOID, in modality units."""

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values → 0 … 1."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / max(self.width, 1e-9), -50, 50)
            return 1 / (1 + np.exp(exponent))
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / max(self.width, 1e-9) + 0.5, 0, 1)
        if self.width <= 1:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


def render(path: Path, frame: int = 0, window: Window | None = None) -> np.ndarray:
    """Frame `frame` (from 0) of a file as uint8, rows × columns or rows × columns × 3 (RGB).

    Raises `RenderError`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = decoded(path, frame)
            return picture(pixels, dcmread(path, specific_tags=_TAGS, stop_before_pixels=True), frame, window)
    except RenderError:
        raise
    except Exception as error:  # decoders raise whatever they like on bytes they cannot decode
        raise RenderError(f"The pixels cannot be decoded ({type(error).__name__}).") from error


def decoded(path: Path, frame: int, *, raw: bool = False) -> np.ndarray:
    """The stored values of one frame; colours as RGB, or with `raw` as in the file. Raises what decoders raise, and
    `RenderError` where a frame claims more than a picture may cost."""
    _bounded(path, frame)
    try:
        return pixel_array(path, index=frame, raw=raw)
    except (AttributeError, ValueError):  # reading by position fails on deflated files and misplaced fragments
        if path.stat().st_size > MAX_WHOLE:
            raise
        return pixel_array(dcmread(path), index=frame, raw=raw)


def _bounded(path: Path, frame: int) -> None:
    """Refuse what would take much more memory to decode than its bytes suggest. Decoders trust the codestream."""
    with part10.mapped(path) as buffer:
        file = part10.walk(buffer)
        if file.transfer_syntax_uid in part10.DEFLATED and len(file.buffer) > MAX_INFLATED:
            raise RenderError("The deflated image is too large for a picture.")
        rows, columns = file.number(0x00280010) or 0, file.number(0x00280011) or 0
        samples = rows * columns * (file.number(0x00280002) or 1)
        if samples > MAX_SAMPLES or samples * (file.number(0x00280100) or 8) // 8 > MAX_FRAME:
            raise RenderError("The image is too large for a picture.")
        table = frame_table(file) if file.encapsulated else []
        if frame < len(table):
            offset, length = table[frame][:2]
            found = dimensions(bytes(file.buffer[offset : offset + min(length, _JPEG_HEAD)]))
            if found is not None and found[0] * found[1] * found[2] > samples:
                raise RenderError("The compressed image claims to be larger than its header says.")


def picture(pixels: np.ndarray, dataset: Dataset, frame: int = 0, window: Window | None = None) -> np.ndarray:
    """Decoded stored values of one frame → 8 bits. Computed in strips, so it takes little more than the pixels."""
    if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        return _in_strips(pixels, lambda strip: _eight_bits(apply_color_lut(strip, dataset)), 3)
    if pixels.ndim == 3:
        bits = int(dataset.get("BitsStored") or 8)
        return _in_strips(pixels, lambda strip: _eight_bits(strip, bits), 3)
    if window is None:
        window = _window_of(dataset, frame)
    table = _functional(dataset, frame, "FrameVOILUTSequence").get("VOILUTSequence") if window is None else None
    limits = _limits(pixels, dataset, frame) if window is None and not table else (0.0, 0.0)
    inverted = _inverted(dataset)

    def shaded(strip: np.ndarray) -> np.ndarray:
        values = modality_values(strip, dataset, frame)
        if window is not None:
            shade = window.apply(values)
        else:
            shade = _through_table(values, table[0]) if table else _between(values, *limits)
        if inverted:
            shade = 1 - shade
        padding = _padding(strip, dataset)
        if padding is not None:
            shade = np.where(padding, 0.0, shade)
        return np.rint(shade * 255).astype(np.uint8)

    return _in_strips(pixels, shaded)


def _in_strips(pixels: np.ndarray, work: Callable[[np.ndarray], np.ndarray], channels: int = 0) -> np.ndarray:
    """`work` on some rows at a time; rows × columns, or rows × columns × `channels`, of uint8."""
    rows, columns = pixels.shape[:2]
    out = np.empty((rows, columns, channels) if channels else (rows, columns), np.uint8)
    step = max(1, STRIP // max(1, pixels[:1].size))
    for at in range(0, rows, step):
        out[at : at + step] = work(pixels[at : at + step])
    return out


def modality_values(pixels: np.ndarray, dataset: Dataset, frame: int = 0) -> np.ndarray:
    """Stored values → modality units by the Modality LUT or rescale, per frame where the object says so."""
    table = dataset.get("ModalityLUTSequence")
    if table:
        return _looked_up(pixels, table[0])
    scale = _functional(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(scale.get("RescaleSlope"), 1.0), _number(scale.get("RescaleIntercept"), 0.0)
    return pixels.astype(np.float64) * slope + intercept


def _functional(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """The functional group macro of a frame, of all frames, or the data set itself (classic objects)."""
    for groups in (
        (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1],
        (dataset.get("SharedFunctionalGroupsSequence") or [])[:1],
    ):
        if len(groups) and groups[0].get(sequence):
            return groups[0].get(sequence)[0]
    return dataset


def _window_of(dataset: Dataset, frame: int) -> Window | None:
    group = _functional(dataset, frame, "FrameVOILUTSequence")
    center, width = _first(group.get("WindowCenter")), _first(group.get("WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(group.get("VOILUTFunction") or "LINEAR").upper()
    return Window(center, width, function if function in ("SIGMOID", "LINEAR_EXACT") else "LINEAR")


def _looked_up(pixels: np.ndarray, item: Dataset) -> np.ndarray:
    """Stored values through a LUT; values outside take the ends (PS3.3 C.11.1.1.1)."""
    count, first, _ = (int(value) for value in item.LUTDescriptor)
    count = count or 65536
    data = item.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data, np.float64))
    if entries.size == 0:
        raise RenderError("A look-up table is empty.")
    index = np.clip(pixels.astype(np.int64) - first, 0, min(count, entries.size) - 1)
    return entries[index].astype(np.float64)


def _through_table(values: np.ndarray, item: Dataset) -> np.ndarray:
    bits = int(item.LUTDescriptor[2]) or 16
    return np.clip(_looked_up(values, item) / (2**bits - 1), 0, 1)


def _limits(pixels: np.ndarray, dataset: Dataset, frame: int) -> tuple[float, float]:
    """Without a window: the range from the 0.5th to the 99.5th percentile of what is not padding, in modality units."""
    padding = _padding(pixels, dataset)
    shown = pixels[~padding] if padding is not None else pixels.ravel()
    if shown.dtype.kind == "f":
        shown = shown[np.isfinite(shown)]
    if shown.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(
        modality_values(shown[:: max(1, shown.size // 200_000)], dataset, frame), [0.5, 99.5]
    ).tolist()
    if high <= low:
        ends = modality_values(np.array([shown.min(), shown.max()]), dataset, frame)
        low, high = float(ends.min()), float(ends.max())
    return low, high


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.full(values.shape, 0.0 if high <= 0 else 1.0)
    return np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)


def _padding(pixels: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    value = dataset.get("PixelPaddingValue")
    if value is None or not np.issubdtype(pixels.dtype, np.integer):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (pixels >= low) & (pixels <= high)


def _inverted(dataset: Dataset) -> bool:
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape:
        return shape == "INVERSE"
    return str(dataset.get("PhotometricInterpretation")) == "MONOCHROME1"


def _eight_bits(pixels: np.ndarray, bits: int = 0) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels[..., :3]
    top = 2**bits - 1 if bits else np.iinfo(pixels.dtype).max
    return np.rint(np.clip(pixels[..., :3].astype(np.float64) / top, 0, 1) * 255).astype(np.uint8)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        value = next(iter(value), None)
    return None if value is None else float(value)


def _number(value: Any, default: float) -> float:
    found = _first(value)
    return default if found is None else found


def encode(
    pixels: np.ndarray, kind: str = "image/jpeg", size: tuple[int, int] | None = None, quality: int = 90
) -> bytes:
    """A picture as image/jpeg or image/png, shrunk or enlarged to fit `size` (width, height) with its proportions."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if size is not None:
        factor = min(size[0] / image.width, size[1] / image.height)
        target = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(target, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BILINEAR)
    out = io.BytesIO()
    if kind == "image/png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=quality)
    return out.getvalue()
