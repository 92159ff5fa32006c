"""Where each frame of an image lies in the patient: single-frame and enhanced multi-frame objects alike.

Source: PS3.3 C.7.6.2 (Image Plane Module), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from studies.dicom.errors import GeometryError

# A slice may lie this far (as a fraction of the spacing) from its place in the regular grid; writers round positions.
SPACING_TOLERANCE = 0.1
ORIENTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Frame:
    """One 2-D plane: which object and frame it is, its geometry in LPS mm, and how its values are rescaled."""

    dataset: Dataset
    index: int  # 0-based within the object
    position: np.ndarray  # (x, y, z) centre of the first pixel
    orientation: np.ndarray  # 2×3: unit vectors along a row and along a column
    pixel_spacing: tuple[float, float]  # (between rows, between columns)
    thickness: float | None
    slope: float
    intercept: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[0], self.orientation[1])


@dataclass(frozen=True)
class Grid:
    """Frames in the order of the slices of a regular grid, and that grid."""

    frames: tuple[Frame, ...]
    spacing: tuple[float, float, float]  # (z, y, x) mm
    origin: tuple[float, float, float]  # (x, y, z) LPS mm
    direction: np.ndarray  # 3×3, columns: unit vectors of the x, y, z index axes

    @property
    def shape(self) -> tuple[int, int, int]:
        first = self.frames[0].dataset
        return len(self.frames), int(first.Rows), int(first.Columns)

    def as_stored(self, array: np.ndarray) -> tuple[list[Dataset], np.ndarray]:
        """The objects of the series, and an array [z, y, x] on this grid in the order of their frames, as highdicom
        wants the two. Raises `GeometryError` (`several_multi_frame`)."""
        datasets = [frame.dataset for frame in self.frames]
        if len({id(dataset) for dataset in datasets}) == len(datasets):
            return datasets, array
        ordered = list({id(dataset): dataset for dataset in datasets}.values())
        if len(ordered) > 1:
            raise GeometryError(
                "The series is spread over several multi-frame objects.",
                "Choose a series that is one multi-frame object, or one of single frames.",
                code="several_multi_frame",
            )
        stored = np.empty_like(array)
        for z, frame in enumerate(self.frames):
            stored[frame.index] = array[z]
        return ordered, stored


def _group(dataset: Dataset, index: int, keyword: str) -> Dataset | None:
    """The item of a functional group for one frame: its own before the shared one."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame and index < len(per_frame):
        found = per_frame[index].get(keyword)
        if found:
            return found[0]
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if shared:
        found = shared[0].get(keyword)
        if found:
            return found[0]
    return None


def frames_of(dataset: Dataset) -> list[Frame]:
    """Every frame of an object.

    Raises `GeometryError` where an object of several frames does not say where they lie, or where what it says is no
    number (`malformed`).
    """
    try:
        return _frames_of(dataset)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise _malformed() from error


def _malformed() -> GeometryError:
    return GeometryError(
        "The geometry of an image is damaged: its size, position, orientation or spacing cannot be read.",
        "Import the file again from its source, or leave it out.",
        code="malformed",
    )


def _frames_of(dataset: Dataset) -> list[Frame]:
    count = int(dataset.get("NumberOfFrames") or 1)
    enhanced = "SharedFunctionalGroupsSequence" in dataset or "PerFrameFunctionalGroupsSequence" in dataset
    if count > 1 and not enhanced:
        raise GeometryError(
            f"The image has {count} frames without a position in space (a cine loop or a screen capture).",
            "Choose a series of cross-sectional images.",
            code="no_frame_positions",
        )
    frames = []
    for index in range(count):
        if enhanced:
            plane = _group(dataset, index, "PlanePositionSequence") or Dataset()
            orientation = _group(dataset, index, "PlaneOrientationSequence") or Dataset()
            measures = _group(dataset, index, "PixelMeasuresSequence") or Dataset()
            values = _group(dataset, index, "PixelValueTransformationSequence") or Dataset()
        else:
            plane = orientation = measures = values = dataset
        frames.append(_frame(dataset, index, plane, orientation, measures, values))
    return frames


def _frame(
    dataset: Dataset, index: int, plane: Dataset, orientation: Dataset, measures: Dataset, values: Dataset
) -> Frame:
    position = plane.get("ImagePositionPatient")
    axes = orientation.get("ImageOrientationPatient")
    spacing = measures.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or [1.0, 1.0]
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    has_place = bool(position) and bool(axes)
    return Frame(
        dataset=dataset,
        index=index,
        position=np.array(position if has_place else [np.nan] * 3, dtype=np.float64),
        orientation=np.array(axes if has_place else [1, 0, 0, 0, 1, 0], dtype=np.float64).reshape(2, 3),
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        thickness=abs(float(thickness)) if thickness else None,
        slope=float(values.get("RescaleSlope", 1) or 1),
        intercept=float(values.get("RescaleIntercept", 0) or 0),
    )


def regular_grid(datasets: Iterable[Dataset]) -> Grid:
    """Sort the frames of a series along their normal and check that they make one regular, right-angled grid.

    A single frame without a position (a radiograph) becomes a grid of one slice at the origin.
    Raises `GeometryError` with code `empty`, `malformed`, `no_position`, `size`, `orientation`, `pixel_spacing`,
    `duplicate_position`, `spacing` or `tilt`.
    """
    frames = [frame for dataset in datasets for frame in frames_of(dataset)]
    if not frames:
        raise GeometryError("The series has no images.", "Choose a series with images.", code="empty")
    if not all(_usable(frame) for frame in frames):
        raise _malformed()
    if len(frames) == 1 and np.isnan(frames[0].position).any():
        frame = frames[0]
        spacing = (frame.thickness or 1.0, *frame.pixel_spacing)
        return Grid((frame,), spacing, (0.0, 0.0, 0.0), np.eye(3))
    _check_alike(frames)

    first = frames[0]
    normal = first.normal / np.linalg.norm(first.normal)
    frames.sort(key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in frames])
    along = positions @ normal
    step = _spacing(along, first.thickness)
    drift = positions - positions[0]
    lateral = drift - np.outer(drift @ normal, normal)
    if np.abs(lateral).max() > max(0.5 * min(first.pixel_spacing), 0.01):
        raise GeometryError(
            "The slices are shifted against each other (gantry tilt or a sheared stack): they do not lie along their"
            " normal.",
            "Resample the series to right angles before it is used in 3-D.",
            code="tilt",
        )
    direction = np.column_stack([first.orientation[0], first.orientation[1], normal])
    origin = frames[0].position
    return Grid(
        tuple(frames),
        (step, first.pixel_spacing[0], first.pixel_spacing[1]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        direction,
    )


def _usable(frame: Frame) -> bool:
    rows, columns = frame.dataset.get("Rows"), frame.dataset.get("Columns")
    return (
        isinstance(rows, int)
        and isinstance(columns, int)
        and bool(np.isfinite(frame.orientation).all())
        and float(np.linalg.norm(frame.normal)) > 1e-3
        and all(np.isfinite(value) and value > 0 for value in frame.pixel_spacing)
        and np.isfinite(frame.slope)
        and np.isfinite(frame.intercept)
    )


def _check_alike(frames: Sequence[Frame]) -> None:
    missing = sum(bool(np.isnan(frame.position).any()) for frame in frames)
    if missing:
        raise GeometryError(
            f"{missing} of {len(frames)} images do not say where they lie (no ImagePositionPatient).",
            "Choose a series of cross-sectional images.",
            code="no_position",
        )
    sizes = {(int(frame.dataset.Rows), int(frame.dataset.Columns)) for frame in frames}
    if len(sizes) > 1:
        listed = ", ".join(f"{rows}×{columns}" for rows, columns in sorted(sizes))
        raise GeometryError(
            f"The images of the series differ in size: {listed}.",
            "Leave out localisers and other images that are not part of the stack.",
            code="size",
        )
    first = frames[0]
    if any(np.abs(frame.orientation - first.orientation).max() > ORIENTATION_TOLERANCE for frame in frames):
        raise GeometryError(
            "The images of the series differ in orientation.",
            "Split the series by orientation, or leave out localisers.",
            code="orientation",
        )
    if any(not np.allclose(frame.pixel_spacing, first.pixel_spacing, rtol=1e-3) for frame in frames):
        raise GeometryError(
            "The images of the series differ in pixel spacing.",
            "Split the series so that each has one pixel spacing.",
            code="pixel_spacing",
        )


def _spacing(along: np.ndarray, thickness: float | None) -> float:
    """The slice spacing in mm of sorted positions along the normal."""
    if len(along) == 1:
        return thickness or 1.0
    step = float(along[-1] - along[0]) / (len(along) - 1)
    gaps = np.diff(along)
    repeated = int((gaps < 1e-3).sum())
    if repeated:
        raise GeometryError(
            f"{repeated} of {len(along)} slices lie where another one lies (several phases, echoes or repeats in"
            " one series).",
            "Split the series so that each slice position occurs once.",
            code="duplicate_position",
        )
    deviation = np.abs(along - (along[0] + step * np.arange(len(along))))
    if deviation.max() > SPACING_TOLERANCE * step:
        raise GeometryError(
            f"The slice spacing is not regular: it varies between {gaps.min():.3g} and {gaps.max():.3g} mm"
            f" over {len(along)} slices; slices are probably missing.",
            "Import the missing slices, or resample the series to an even spacing.",
            code="spacing",
        )
    return step
