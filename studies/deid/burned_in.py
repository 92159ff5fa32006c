"""Text that was drawn into the pixels: what the header lets suspect, and where letters seem to be.

No characters are recognised. Letters are small parts of one extreme value, alike in height, side by side on a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy.ndimage import find_objects, grey_opening, label

LETTER = (5, 64)  # pixels high
AT_LEAST = 4  # letters in a line
STROKE = 0.3  # of a letter's pixels have nearly the line's extreme value
STEP = 40  # of 255 that a letter stands out by
SUSPECT_MODALITIES = {
    "US": "ultrasound", "OT": "other", "XC": "photography", "ES": "endoscopy", "GM": "microscopy", "DOC": "document",
    "SC": "secondary capture", "XA": "angiography", "RF": "fluoroscopy",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle in pixels: rows top to bottom (exclusive), columns left to right (exclusive)."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Letters:
    """A connected part that may be a letter, or several that touch."""

    box: Box
    peak: float  # grey value
    count: float


def suspicions(dataset: Dataset) -> list[str]:
    """Why the header lets expect text in the pixels."""
    found = []
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        found.append("BurnedInAnnotation is YES")
    if str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.7"):
        found.append("the object is a secondary capture")
    modality = str(dataset.get("Modality", ""))
    if modality in SUSPECT_MODALITIES:
        found.append(f"modality {modality} ({SUSPECT_MODALITIES[modality]}) often has text in its pixels")
    kinds = {str(value).upper() for value in dataset.get("ImageType") or []}
    if "SCREEN SAVE" in kinds or "SCREENSAVE" in kinds:
        found.append("ImageType says screen save")
    if modality in ("CT", "MR", "PT") and int(dataset.get("SamplesPerPixel") or 1) > 1:
        found.append("a cross-sectional image in colour")
    return found


def text_boxes(image: np.ndarray) -> list[Box]:
    """Lines of text in an 8-bit picture (rows × columns, or × RGB), bright or dark."""
    grey = image.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.max(axis=2)
    boxes: list[Box] = []
    for picture in (grey, 255 - grey):
        boxes += _bright_lines(picture)
    return sorted(set(boxes))


def _bright_lines(grey: np.ndarray) -> list[Box]:
    # What a square of 9 pixels does not fit into stands out; strokes are thinner than that.
    thin = grey - grey_opening(grey, size=(9, 9))
    parts, _ = label(thin > STEP, structure=np.ones((3, 3)))
    letters = []
    for number, found in enumerate(find_objects(parts), start=1):
        rows, columns = found
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not LETTER[0] <= height <= LETTER[1] or height > 12 * width:
            continue
        inside = parts[found] == number
        values = grey[found][inside]
        peak = float(np.percentile(values, 95))
        # Strokes drawn into an image have one value and soft rims; anatomy and noise have many values.
        if (values > peak - 20).mean() < STROKE or not 0.12 <= inside.mean() <= 0.95:
            continue
        # Small letters run into each other.
        count = max(1.0, width / (0.7 * height))
        letters.append(Letters(Box(rows.start, columns.start, rows.stop, columns.stop), peak, count))
    return _lines(letters)


def _lines(letters: list[Letters]) -> list[Box]:
    """Chains of letters side by side, alike in height and value."""
    chains: list[list[Letters]] = []
    for one in sorted(letters, key=lambda one: one.box.left):
        for chain in chains:
            if _beside(chain[-1], one):
                chain.append(one)
                break
        else:
            chains.append([one])
    return [
        Box(
            min(one.box.top for one in chain),
            min(one.box.left for one in chain),
            max(one.box.bottom for one in chain),
            max(one.box.right for one in chain),
        )
        for chain in chains
        if sum(one.count for one in chain) >= AT_LEAST and len(chain) > 1
    ]


def _beside(last: Letters, one: Letters) -> bool:
    tall, low = sorted((last.box.bottom - last.box.top, one.box.bottom - one.box.top), reverse=True)
    overlap = min(one.box.bottom, last.box.bottom) - max(one.box.top, last.box.top)
    near = -2 <= one.box.left - last.box.right <= 1.6 * tall
    return near and overlap >= 0.5 * low and tall <= 1.8 * low and abs(one.peak - last.peak) <= 25


def blanked(pixels: np.ndarray, boxes: list[Box], value: int, margin: int = 4) -> np.ndarray:
    """A copy of stored values (frames ×) rows × columns (× samples) with the boxes filled."""
    filled = pixels.copy()
    for box in boxes:
        rows = slice(max(box.top - margin, 0), box.bottom + margin)
        columns = slice(max(box.left - margin, 0), box.right + margin)
        filled[rows, columns] = value
    return filled
