"""Text that was drawn into the pixels: what the header lets suspect, and where letters seem to be.

No characters are recognised. Letters are small parts of one extreme value, alike in height, side by side on a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy.ndimage import find_objects, grey_opening, label, median_filter

LETTER = (5, 64)  # pixels high
AT_LEAST = 4  # letters in a line
STROKE = 0.3  # of a letter's pixels have nearly the line's extreme value
SHADES = 20  # of 255 that the pixels of a stroke differ by; lossy compression does that
FINE = 0.002  # of the range of values, where these are finer than 8 bits
SPIKE, VALUES = 60, 4  # pixels of one value that are looked at by themselves; so many values
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

    def overlaps(self, other: Box) -> bool:
        """Whether they share a third of the smaller one."""
        rows = min(self.bottom, other.bottom) - max(self.top, other.top)
        columns = min(self.right, other.right) - max(self.left, other.left)
        return rows > 0 and columns > 0 and 3 * rows * columns >= min(self.area, other.area)

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def around(self, other: Box) -> Box:
        return Box(
            min(self.top, other.top), min(self.left, other.left),
            max(self.bottom, other.bottom), max(self.right, other.right),
        )  # fmt: skip


@dataclass(frozen=True)
class Letters:
    """A connected part that may be a letter, or several that touch."""

    box: Box
    peak: float  # in units of the tolerance
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


def text_boxes(picture: np.ndarray, values: np.ndarray | None = None) -> list[Box]:
    """Lines of text in an 8-bit picture (rows × columns, or × RGB), bright or dark.

    `values`: the same frame's stored values where they are finer than the picture. There, drawn strokes have one value,
    while bones that a window makes white have many.
    """
    grey = picture.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.max(axis=2)
    fine, tolerance = grey, float(SHADES)
    if values is not None and values.ndim == 2 and values.shape == grey.shape:
        low, high = np.percentile(values, [0.5, 99.5])
        fine, tolerance = values.astype(np.float32), max(1.0, FINE * float(high - low))
    boxes: list[Box] = []
    for seen, judged in ((grey, fine), (255 - grey, -fine)):
        boxes += _bright_lines(seen, judged, tolerance)
    return merged(boxes)


def merged(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap made one, sorted."""
    left = sorted(set(boxes))
    done: list[Box] = []
    while left:
        one = left.pop()
        for other in left:
            if one.overlaps(other):
                left.remove(other)
                left.append(one.around(other))
                break
        else:
            done.append(one)
    return sorted(done)


def _bright_lines(grey: np.ndarray, fine: np.ndarray, tolerance: float) -> list[Box]:
    # What a square of 9 pixels does not fit into stands out; strokes are thinner than that.
    thin = grey - grey_opening(grey, size=(9, 9)) > STEP
    boxes = _lines(_letters(thin, fine, tolerance))
    # Letters that touch bright anatomy come apart from it by their value.
    for value in _frequent(fine[thin], tolerance):
        boxes += _lines(_letters(thin & (np.abs(fine - value) <= tolerance), fine, tolerance))
    return boxes


def _frequent(values: np.ndarray, tolerance: float) -> list[float]:
    """Values that occur much more often than those around them, as those of drawn strokes do."""
    if values.size == 0:
        return []
    first = float(values.min())
    counts = np.bincount(np.rint((values - first) / tolerance).astype(np.int64))
    around = median_filter(counts, 15, mode="constant") if counts.size > 30 else np.zeros_like(counts)
    often = np.flatnonzero((counts >= SPIKE) & (counts > 4 * around))
    best = sorted(often, key=lambda place: -counts[place])[:VALUES]
    return [first + float(place) * tolerance for place in best]


def _letters(mask: np.ndarray, fine: np.ndarray, tolerance: float) -> list[Letters]:
    parts, _ = label(mask, structure=np.ones((3, 3)))
    letters = []
    for number, found in enumerate(find_objects(parts), start=1):
        rows, columns = found
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not LETTER[0] <= height <= LETTER[1] or height > 12 * width:
            continue
        inside = parts[found] == number
        values = fine[found][inside]
        peak = float(np.percentile(values, 95))
        # Strokes drawn into an image have one value and soft rims; anatomy and noise have many values.
        if (values > peak - tolerance).mean() < STROKE or not 0.12 <= inside.mean() <= 0.95:
            continue
        # Small letters run into each other.
        count = max(1.0, width / (0.7 * height))
        letters.append(Letters(Box(rows.start, columns.start, rows.stop, columns.stop), peak / tolerance, count))
    return letters


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
    return near and overlap >= 0.5 * low and tall <= 1.8 * low and abs(one.peak - last.peak) <= 1.25


def blanked(pixels: np.ndarray, boxes: list[Box], value: int | list[int], margin: int = 4) -> np.ndarray:
    """A copy of the stored values of a frame, rows × columns (× samples), with the boxes filled."""
    filled = pixels.copy()
    for box in boxes:
        rows = slice(max(box.top - margin, 0), box.bottom + margin)
        columns = slice(max(box.left - margin, 0), box.right + margin)
        filled[rows, columns] = value
    return filled
