"""A frame as an 8-bit picture: modality LUT, VOI LUT or window, MONOCHROME1, palette and colour (PS3.3 C.7.6.3,
C.11.1, C.11.2; PS3.4 N.2). Values in, values out; files are read by the caller's path only."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, pixel_array

MAX_PIXELS = 100_000_000


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
            dataset = dcmread(path, defer_size=4096, specific_tags=None)
            if int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0) > MAX_PIXELS:
                raise RenderError("The image is too large for a picture.")
            return picture(decoded(path, frame), dataset, frame, window)
    except RenderError:
        raise
    except Exception as error:  # decoders raise whatever they like on bytes they cannot decode
        raise RenderError(f"The pixels cannot be decoded ({type(error).__name__}).") from error


def decoded(path: Path, frame: int, *, raw: bool = False) -> np.ndarray:
    """The stored values of one frame; colours as RGB, or with `raw` as in the file. Raises what decoders raise."""
    try:
        return pixel_array(path, index=frame, raw=raw)
    except (AttributeError, ValueError):  # reading by position fails on deflated files and misplaced fragments
        return pixel_array(dcmread(path), index=frame, raw=raw)


def picture(pixels: np.ndarray, dataset: Dataset, frame: int = 0, window: Window | None = None) -> np.ndarray:
    """Decoded stored values of one frame → 8 bits."""
    if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        return _eight_bits(apply_color_lut(pixels, dataset))
    if pixels.ndim == 3:
        return _eight_bits(pixels, int(dataset.get("BitsStored") or 8))
    padding = _padding(pixels, dataset)
    values = modality_values(pixels, dataset, frame)
    if window is None:
        window = _window_of(dataset, frame)
    table = _functional(dataset, frame, "FrameVOILUTSequence").get("VOILUTSequence") if window is None else None
    if window is not None:
        shade = window.apply(values)
    elif table:
        shade = _through_table(values, table[0])
    else:
        shade = _auto(values, padding)
    if _inverted(dataset):
        shade = 1 - shade
    if padding is not None:
        shade = np.where(padding, 0.0, shade)
    return np.rint(shade * 255).astype(np.uint8)


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


def _auto(values: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """Without a window: the range from the 0.5th to the 99.5th percentile of what is not padding."""
    shown = values[~padding] if padding is not None else values.ravel()
    shown = shown[np.isfinite(shown)]
    if shown.size == 0:
        return np.zeros(values.shape)
    low, high = np.percentile(shown[:: max(1, shown.size // 200_000)], [0.5, 99.5])
    if high <= low:
        low, high = float(shown.min()), float(shown.max())
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
