"""What is wrong with the images of a series, told from headers and stored values.

Geometry looks at the frames' places (PS3.3 C.7.6.2), pixels at each frame's own values. Thresholds are constants at
the top; each finding carries the numbers it was decided by.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from studies.dicom.errors import GeometryError
from studies.dicom.frames import ORIENTATION_TOLERANCE, SPACING_TOLERANCE, Frame, frames_of

SAME_PLACE = 1e-2  # mm; positions are written with few decimals
TILT = 0.5  # degrees between the stack's axis and the slices' normal
UNIT = 1e-2  # how far direction cosines may be from orthonormal
BLANK_SHARE = 0.999  # of the pixels have one value
CLIPPED_SHARE = 0.05  # of the pixels sit at the bright end of the values
SPIKE = 4  # times as many as at the next value: cut off, not just evenly bright
FEW_LEVELS = 16  # fewer grey levels than that make a mask or a drawing: no clipping is told from it
LOW_CONTRAST_8 = 0.10  # of 255, from the 1st to the 99th percentile, up to 8 bits
LOW_CONTRAST_16 = 32  # stored levels from the 1st to the 99th percentile, above 8 bits

CODES = {
    "missing_slices": "Missing slices",
    "duplicate_slices": "Duplicated slices",
    "irregular_spacing": "Irregular spacing",
    "gantry_tilt": "Gantry tilt",
    "wrong_orientation": "Wrong orientation",
    "mixed_geometry": "Mixed geometry",
    "blank": "Blank images",
    "clipped": "Clipped images",
    "low_contrast": "Low contrast",
    "undecodable": "Undecodable images",
}
PLANES = {
    "sagittal": re.compile(r"(?<![a-z])sag(ittal)?(?![a-z])", re.IGNORECASE),
    "coronal": re.compile(r"(?<![a-z])cor(onal)?(?![a-z])", re.IGNORECASE),
    "axial": re.compile(r"(?<![a-z])(ax|axial|tra|transverse|transversal)(?![a-z])", re.IGNORECASE),
}
AXES = ("sagittal", "coronal", "axial")  # the plane whose normal is x, y, z
# Where two frames of one place differ in one of these, they are phases, echoes or weightings, not duplicates.
DISTINGUISHING = (
    "TemporalPositionIdentifier", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime", "EchoTime",
    "EchoNumbers", "InversionTime", "DiffusionBValue", "DiffusionGradientOrientation", "FlipAngle", "ImageType",
    "TemporalPositionIndex", "NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime",
    "FrameReferenceDateTime", "FrameReferenceTime", "KVP",
)  # fmt: skip
# Two projections whose row should run to the patient's left on the screen.
FRONTAL_VIEWS = {"PA", "AP"}


@dataclass(frozen=True)
class Finding:
    """`code` is one of `CODES`; `reason` is a sentence for people; `numbers` what it was decided by."""

    code: str
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


def geometry_findings(datasets: Iterable[Dataset]) -> list[Finding]:
    """Findings about the places of the images of one series; headers suffice.

    Images without a place (radiographs, ultrasound) are judged by PatientOrientation alone.
    """
    datasets = list(datasets)
    found = _views(datasets)
    try:
        frames = [frame for dataset in datasets for frame in frames_of(dataset)]
    except GeometryError:
        return found  # a cine loop or a screen capture lies nowhere
    placed = [frame for frame in frames if not np.isnan(frame.position).any()]
    if not placed:
        return found
    if len(placed) < len(frames):
        n = len(frames) - len(placed)
        reason = f"{n} of {len(frames)} images do not say where they lie, the others do."
        found.append(Finding("mixed_geometry", reason, {"without_position": n, "images": len(frames)}))
    stack, invalid = _one_orientation(placed)
    found += invalid
    if stack:
        found += _plane(stack) + _along(stack)
    return found


def _views(datasets: Sequence[Dataset]) -> list[Finding]:
    """Frontal radiographs show the patient face to face: rows run to the patient's left, columns to the feet."""
    wrong: Counter[str] = Counter()
    for dataset in datasets:
        orientation = dataset.get("PatientOrientation") or []
        if str(dataset.get("ViewPosition", "")).upper() not in FRONTAL_VIEWS or len(orientation) != 2:
            continue
        row, column = (str(value).upper() for value in orientation)
        if row[:1] != "L" or column[:1] != "F":
            wrong[f"{row}\\{column}"] += 1
    if not wrong:
        return []
    n, (first, _) = sum(wrong.values()), wrong.most_common(1)[0]
    words = "mirrored" if first.startswith("R\\F") else "turned or mirrored"
    reason = f"{n} of {len(datasets)} frontal images are {words}: PatientOrientation is {first}, expected L\\F."
    return [Finding("wrong_orientation", reason, {"images": n, "of": len(datasets), "patient_orientation": first})]


def _one_orientation(frames: Sequence[Frame]) -> tuple[list[Frame], list[Finding]]:
    """The frames of the commonest orientation and size, and what is wrong with the others."""
    good, found = [], []
    for frame in frames:
        gram = frame.orientation @ frame.orientation.T
        if np.abs(gram - np.eye(2)).max() <= UNIT:
            good.append(frame)
    if len(good) < len(frames):
        n = len(frames) - len(good)
        reason = f"{n} of {len(frames)} images have direction cosines that are not at right angles or not of length 1."
        found.append(Finding("wrong_orientation", reason, {"images": n, "of": len(frames)}))
    groups: list[list[Frame]] = []
    for frame in good:
        for group in groups:
            if np.abs(group[0].orientation - frame.orientation).max() <= ORIENTATION_TOLERANCE and _alike(
                group[0], frame
            ):
                group.append(frame)
                break
        else:
            groups.append([frame])
    if not groups:
        return [], found
    stack = max(groups, key=len)
    if len(groups) > 1:
        n = len(good) - len(stack)
        reason = (
            f"{n} of {len(good)} images differ from the others in orientation, size or pixel spacing"
            f" ({len(groups)} kinds in one series)."
        )
        found.append(Finding("mixed_geometry", reason, {"images": n, "of": len(good), "kinds": len(groups)}))
    return stack, found


def _alike(one: Frame, other: Frame) -> bool:
    sizes = [(frame.dataset.get("Rows"), frame.dataset.get("Columns")) for frame in (one, other)]
    return sizes[0] == sizes[1] and bool(np.allclose(one.pixel_spacing, other.pixel_spacing, rtol=1e-3))


def _plane(stack: Sequence[Frame]) -> list[Finding]:
    """The plane that the words name against the plane in which the images lie."""
    dataset = stack[0].dataset
    normal = np.abs(stack[0].normal)
    plane = AXES[int(normal.argmax())]
    kinds = [str(value).upper() for value in dataset.get("ImageType") or []]
    text = str(dataset.get("SeriesDescription", ""))
    named = {name for name, pattern in PLANES.items() if pattern.search(text)}
    source = "SeriesDescription"
    if len(named) != 1 and len(kinds) > 2 and kinds[2] == "AXIAL" and "REFORMATTED" not in kinds:
        named, source = {"axial"}, "ImageType"
    # Between 45° and the corner of the cube either word is right.
    if len(named) != 1 or plane in named or normal[AXES.index(next(iter(named)))] > 0.5:
        return []
    said = named.pop()
    reason = f"{source} says {said}, the images lie in a {plane} plane."
    return [Finding("wrong_orientation", reason, {"said": said, "plane": plane})]


def _along(stack: Sequence[Frame]) -> list[Finding]:
    """Findings of one stack of parallel frames: duplicates, gaps, uneven steps, shear."""
    normal = stack[0].normal / np.linalg.norm(stack[0].normal)
    ordered = sorted(stack, key=lambda frame: float(frame.position @ normal))
    places: list[list[Frame]] = []
    for frame in ordered:
        if places and np.linalg.norm(frame.position - places[-1][0].position) < SAME_PLACE:
            places[-1].append(frame)
        else:
            places.append([frame])
    found = _duplicates(places, len(stack))
    tilt = _tilt(places, normal)
    if tilt is not None:
        found.append(tilt)
    along = np.array([place[0].position @ normal for place in places])
    return found + _gaps(along)


def _duplicates(places: Sequence[Sequence[Frame]], n: int) -> list[Finding]:
    repeats = 0
    for place in places:
        objects: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for frame in place:  # frames of one object are told apart by it, if not by what we know
            objects[tuple(str(_value(frame, keyword)) for keyword in DISTINGUISHING)].add(id(frame.dataset))
        repeats += sum(len(alike) - 1 for alike in objects.values())
    if not repeats:
        return []
    reason = f"{repeats} of {n} images lie where another one lies, with nothing that tells them apart."
    return [Finding("duplicate_slices", reason, {"duplicates": repeats, "images": n})]


def _value(frame: Frame, keyword: str) -> Any:
    groups = frame.dataset.get("PerFrameFunctionalGroupsSequence")
    if groups and frame.index < len(groups):
        for sequence in groups[frame.index]:
            if sequence.VR == "SQ" and sequence.value and keyword in sequence.value[0]:
                return sequence.value[0].get(keyword)
    return frame.dataset.get(keyword)


def _tilt(places: Sequence[Sequence[Frame]], normal: np.ndarray) -> Finding | None:
    """The angle between the axis of the stack and the slices' normal; the header's own word where it contradicts."""
    header = places[0][0].dataset.get("GantryDetectorTilt")
    said = abs(float(header)) if header not in (None, "") else 0.0
    if len(places) < 2:
        return None
    way = places[-1][0].position - places[0][0].position
    along = float(way @ normal)
    lateral = float(np.linalg.norm(way - along * normal))
    # Rounded positions of a short stack are no tilt.
    angle = float(np.degrees(np.arctan2(lateral, abs(along)))) if lateral > 0.1 else 0.0
    numbers = {"degrees": round(angle, 2), "header_degrees": round(said, 2)}
    if angle > TILT:
        return Finding("gantry_tilt", f"The slices are sheared against their normal by {angle:.1f}°.", numbers)
    if said > TILT:
        reason = f"The header says a gantry tilt of {said:.1f}°, but the slices lie along their normal."
        return Finding("gantry_tilt", reason, numbers)
    return None


def _gaps(along: np.ndarray) -> list[Finding]:
    """along: sorted distinct positions in mm."""
    if len(along) < 3:
        return []
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if step <= 0:
        return []
    ratio = gaps / step
    steps = np.rint(ratio)
    holes = (steps >= 2) & (np.abs(ratio - steps) <= SPACING_TOLERANCE * steps)
    uneven = ~holes & (np.abs(ratio - 1) > SPACING_TOLERANCE)
    found = []
    if holes.any():
        missing, where = int((steps[holes] - 1).sum()), int(holes.sum())
        reason = (
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing in {where} place{'s' if where > 1 else ''}"
            f" (the step is {step:.4g} mm, the largest gap {gaps.max():.4g} mm)."
        )
        at = [round(float(value), 2) for value in along[:-1][holes][:20]]
        found.append(Finding("missing_slices", reason, {"missing": missing, "step_mm": round(step, 4), "after_mm": at}))
    if uneven.any():
        rest = gaps[~holes]
        n = int(uneven.sum())
        reason = (
            f"{n} of {len(gaps)} steps between slices are uneven: {rest.min():.4g} to {rest.max():.4g} mm,"
            f" {step:.4g} mm in the middle."
        )
        numbers = {"uneven": n, "steps": len(gaps), "smallest_mm": round(float(rest.min()), 4)}
        numbers |= {"largest_mm": round(float(rest.max()), 4), "step_mm": round(step, 4)}
        found.append(Finding("irregular_spacing", reason, numbers))
    return found


@dataclass(frozen=True, slots=True)
class FrameValues:
    """What the pixel checks need of one frame; shares are of pixels that are not padding, 0 to 1."""

    commonest_share: float
    bright_share: float  # at the brightest value of the frame, 0 where it is no spike over the next one
    levels: int
    spread: float  # stored values from the 1st to the 99th percentile
    bits: int


def frame_values(stored: np.ndarray, dataset: Dataset) -> FrameValues | None:
    """Measure one frame of stored values (rows × columns, or × samples); None where all is padding."""
    values = stored.mean(axis=2).astype(np.int64) if stored.ndim == 3 else stored
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        values = values.ravel()
    else:
        limit = dataset.get("PixelPaddingRangeLimit")
        low, high = sorted((int(padding), int(padding if limit is None else limit)))
        values = values[(values < low) | (values > high)]
    if not values.size:
        return None
    levels, counts = np.unique(values, return_counts=True)
    ends = counts if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1" else counts[::-1]
    spike = len(ends) > 1 and ends[0] > SPIKE * ends[1]
    low, high = np.percentile(values, [1, 99])
    return FrameValues(
        commonest_share=float(counts.max() / values.size),
        bright_share=float(ends[0] / values.size) if spike else 0.0,
        levels=int(levels.size),
        spread=float(high - low),
        bits=int(dataset.get("BitsStored") or 16),
    )


def pixel_findings(
    frames: Sequence[FrameValues | None], *, colour: bool = False, undecodable: int = 0
) -> list[Finding]:
    """Findings about the values of a series' frames; None stands for a frame that is padding only.

    A stack has low contrast where at least half of its frames have: its ends may show nothing but air.
    Clipping is not judged in colour, where screen captures have large plain areas.
    """
    found = []
    n = len(frames)
    if undecodable:
        total = n + undecodable
        reason = f"{undecodable} of {total} images cannot be decoded: damaged, or compressed in an unknown way."
        found.append(Finding("undecodable", reason, {"images": undecodable, "of": total}))
    blank = [frame for frame in frames if frame is None or frame.commonest_share >= BLANK_SHARE]
    shown = [frame for frame in frames if frame is not None and frame.commonest_share < BLANK_SHARE]
    if blank:
        reason = f"{len(blank)} of {n} images are blank: at least {BLANK_SHARE:.1%} of the pixels have one value."
        found.append(Finding("blank", reason, {"images": len(blank), "of": n}))
    clipped = [f for f in shown if not colour and f.levels >= FEW_LEVELS and f.bright_share > CLIPPED_SHARE]
    if clipped:
        worst = max(frame.bright_share for frame in clipped)
        reason = f"{len(clipped)} of {n} images are clipped: up to {worst:.0%} of the pixels have the brightest value."
        found.append(Finding("clipped", reason, {"images": len(clipped), "of": n, "largest_share": round(worst, 4)}))
    flat = [frame for frame in shown if frame.spread < _least_spread(frame.bits)]
    if flat and 2 * len(flat) >= len(shown):
        spread = float(np.median([frame.spread for frame in flat]))
        least = _least_spread(flat[0].bits)
        reason = (
            f"{len(flat)} of {n} images have low contrast: the middle 98 % of the pixels span {spread:.4g} grey levels,"
            f" fewer than {least:.4g}."
        )
        found.append(Finding("low_contrast", reason, {"images": len(flat), "of": n, "median_spread": round(spread, 2)}))
    return found


def _least_spread(bits: int) -> float:
    return LOW_CONTRAST_8 * (2**bits - 1) if bits <= 8 else LOW_CONTRAST_16
