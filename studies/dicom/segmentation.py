"""Label maps as DICOM Segmentation objects (PS3.3 A.51) and back.

Written as BINARY: OHIF refuses FRACTIONAL, and every PACS knows BINARY. Read: BINARY, LABELMAP and FRACTIONAL (at half
of the maximum), on any grid, placed by geometry and never by the order of the frames.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from studies.dicom import labels as label_codes
from studies.dicom.errors import SegmentationError
from studies.dicom.frames import frames_of, regular_grid
from studies.dicom.segmentation_planes import Plane, placed
from studies.dicom.uids import derived_uid, new_uid
from studies.dicom.volume import Volume

MANUFACTURER = "Readroom"
LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # newer than pydicom's dictionary
ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")


logging.getLogger("highdicom").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Algorithm:
    """What drew the segments; a person where there is none."""

    name: str
    version: str
    family: Code = ALGORITHM_FAMILY


@dataclass(frozen=True)
class Segment:
    """A segment of a SEG object."""

    number: int
    label: str
    algorithm_type: str


def write(
    source_datasets: Iterable[Dataset],
    label_map: np.ndarray,
    labels: Sequence[label_codes.Label],
    *,
    algorithm: Algorithm | None = None,
    series_description: str = "",
    series_number: int = 900,
    instance_number: int = 1,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    content_creator_name: str | None = None,
    software_version: str = "0.1",
) -> Dataset:
    """A SEG object with one segment for each label, also for labels that no voxel has.

    source_datasets: the objects of the segmented series (headers suffice), in any order.
    label_map: [z, y, x] in the grid of `volume.from_datasets(source_datasets)`; 0 is background. Or bool
        [label, z, y, x], one mask for each label in the order of `labels`, where structures may overlap.
    labels: see `studies.dicom.labels`. DICOM wants segments numbered from 1 without gaps: label numbers with gaps are
        renumbered in their order, and `read(…, labels=…)` finds them again by name.
    algorithm: a model; without it the segments count as drawn by hand (MANUAL).
    Raises `SegmentationError` (`labels`, `shape`, `unknown_label`, `source`) and `GeometryError`.
    """
    made = label_codes.checked(labels)
    sources = list(source_datasets)
    grid = regular_grid(sources)
    if label_map.ndim == 4:
        ordered, pixels = grid.as_stored(_stacked(label_map, made, labels, grid.shape))
    else:
        ordered, pixels = grid.as_stored(_numbered(label_map, made, grid.shape))

    series_uid = series_instance_uid or new_uid()
    description = series_description or "Segmentation"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom warns about empty masks and odd names in the source
            dataset = hd.seg.Segmentation(
                source_images=ordered,
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _description(number, label, algorithm, series_uid) for number, label in enumerate(made, start=1)
                ],
                series_instance_uid=series_uid,
                series_number=series_number,
                sop_instance_uid=sop_instance_uid or new_uid(),
                instance_number=instance_number,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MANUFACTURER,
                software_versions=software_version,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description=description[:64],
                content_creator_name=content_creator_name,
                transfer_syntax_uid=ExplicitVRLittleEndian,
                series_description=description[:64],
            )
    except (ValueError, TypeError, AttributeError) as error:
        raise SegmentationError(
            f"These images cannot be the source of a segmentation: {error}",
            "Correct the headers of the series and import it again.",
            code="source",
        ) from error
    return dataset


def segments(dataset: Dataset) -> list[Segment]:
    """The segments of a SEG object. Raises `SegmentationError` where it is not one."""
    _check_is_segmentation(dataset)
    return [
        Segment(
            number=int(item.get("SegmentNumber") or 0),
            label=str(item.get("SegmentLabel") or ""),
            algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
        )
        for item in dataset.get("SegmentSequence") or []
        if int(item.get("SegmentNumber") or 0) > 0  # LABELMAP describes its background as segment 0
    ]


def read(dataset: Dataset, like: Volume, labels: Sequence[label_codes.Label] | None = None) -> np.ndarray:
    """The label map [z, y, x] (uint8) of a SEG object in the grid of `like`.

    labels: gives segments the number of the label that is called like them; a segment with another name keeps its
        number where that is a label's, and is left out otherwise. Without labels segment numbers are used as they are.
    A SEG on another grid is taken over by the nearest voxel. Where segments overlap the higher number wins.
    Raises `SegmentationError` (`not_a_segmentation`, `no_place`, `undecodable`) and `GeometryError`.
    """
    numbers = _label_numbers(segments(dataset), labels)
    return placed(_planes(dataset), like, numbers) if numbers else np.zeros(like.array.shape, dtype=np.uint8)


def read_masks(dataset: Dataset, like: Volume, labels: Sequence[label_codes.Label]) -> np.ndarray:
    """bool [label, z, y, x]: each label's mask in the grid of `like`, in the order of `labels`, overlaps kept.

    See `read` for how segments find their labels and for the errors.
    """
    numbers = _label_numbers(segments(dataset), labels)
    planes = _planes(dataset) if numbers else []
    masks = np.zeros((len(labels), *like.array.shape), dtype=bool)
    for mask, label in zip(masks, labels, strict=True):
        own = {segment: 1 for segment, number in numbers.items() if number == label["number"]}
        # A LABELMAP has all of its segments in one frame.
        mine = [plane for plane in planes if plane.segment is None or plane.segment in own]
        if own and mine:
            mask[:] = placed(mine, like, own) == 1
    return masks


def _stacked(
    masks: np.ndarray, made: list[dict[str, Any]], labels: Sequence[label_codes.Label], shape: tuple[int, int, int]
) -> np.ndarray:
    """[z, y, x, segment] of masks [label, z, y, x], as highdicom wants segments that may overlap."""
    if masks.shape != (len(labels), *shape):
        raise SegmentationError(
            f"The masks have shape {masks.shape}, wanted is {(len(labels), *shape)} (labels, slices, rows, columns).",
            "Predict on the grid of this very series, one mask for each label.",
            code="shape",
        )
    order = [[label["number"] for label in labels].index(label["number"]) for label in made]
    return np.ascontiguousarray(np.moveaxis(masks[order], 0, -1)).astype(np.uint8)


def _numbered(label_map: np.ndarray, labels: list[dict[str, Any]], shape: tuple[int, int, int]) -> np.ndarray:
    if label_map.shape != shape:
        raise SegmentationError(
            f"The label map has shape {label_map.shape}, the images {shape} (slices, rows, columns).",
            "Draw or predict on the grid of this very series.",
            code="shape",
        )
    numbers = {label["number"]: segment for segment, label in enumerate(labels, start=1)}
    lookup = np.zeros(256, dtype=np.uint8)
    for number, segment in numbers.items():
        lookup[number] = segment
    present = {int(value) for value in np.unique(label_map)}
    unknown = sorted(present - set(numbers) - {0})
    if unknown:
        raise SegmentationError(
            f"The label map has the values {unknown[:10]}, which are not among the labels {sorted(numbers)}.",
            "Name every value of the label map.",
            code="unknown_label",
        )
    return lookup[label_map.astype(np.uint8)]


def _description(
    number: int, label: dict[str, Any], algorithm: Algorithm | None, series_uid: str
) -> hd.seg.SegmentDescription:
    identification = None
    kind = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    if algorithm is not None:
        kind = hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        identification = hd.AlgorithmIdentificationSequence(
            name=algorithm.name[:64], family=algorithm.family, version=algorithm.version[:64]
        )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label["name"],
        segmented_property_category=label_codes.category_of(label),
        segmented_property_type=label_codes.type_of(label),
        algorithm_type=kind,
        algorithm_identification=identification,
        tracking_uid=derived_uid(series_uid, label["number"], label["name"]),
        tracking_id=label["name"],
        display_color=hd.color.CIELabColor.from_rgb(*label_codes.color_of(label)),
    )


def _check_is_segmentation(dataset: Dataset) -> None:
    if dataset.get("SOPClassUID") not in (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE):
        raise SegmentationError(
            f"The object is not a DICOM Segmentation (modality {dataset.get('Modality') or 'unknown'}).",
            "Choose a series of modality SEG.",
            code="not_a_segmentation",
        )


def _label_numbers(found: list[Segment], labels: Sequence[label_codes.Label] | None) -> dict[int, int]:
    """Segment number → number in the label map."""
    if labels is None:
        return {segment.number: segment.number for segment in found if segment.number <= label_codes.MAX_LABELS}
    by_name = {label["name"].strip().casefold(): label["number"] for label in labels}
    named = {by_name.get(segment.label.strip().casefold()) for segment in found}
    # A label that a segment is called like takes no other one by its number.
    known = set(by_name.values()) - named
    numbers = {}
    for segment in found:
        number = by_name.get(segment.label.strip().casefold())
        if number is None and segment.number in known:
            number = segment.number
        if number is not None:
            numbers[segment.number] = number
    return numbers


def _planes(dataset: Dataset) -> list[Plane]:
    try:
        pixels = pixel_array(dataset).reshape(-1, int(dataset.Rows), int(dataset.Columns))
    except Exception as error:  # decoders raise whatever they like
        raise SegmentationError(
            f"The pixels of the segmentation cannot be decoded ({type(error).__name__}).",
            "The file is probably truncated or damaged: import it again from its source.",
            code="undecodable",
        ) from error
    kind = str(dataset.get("SegmentationType") or "BINARY")
    half = float(dataset.get("MaximumFractionalValue") or 255) / 2
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    planes = []
    for frame in frames_of(dataset):
        segment = None
        if kind != "LABELMAP":
            own = per_frame[frame.index] if frame.index < len(per_frame) else Dataset()
            identification = own.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
            if not identification:
                raise SegmentationError(
                    f"Frame {frame.index + 1} of the segmentation does not say to which segment it belongs.",
                    "Export the segmentation again from the program that made it.",
                    code="no_segment",
                )
            segment = int(identification[0].ReferencedSegmentNumber)
        mask = pixels[frame.index]
        if kind == "FRACTIONAL":
            mask = mask >= half
        if not mask.any():
            continue
        axes = np.column_stack(
            [frame.orientation[0] * frame.pixel_spacing[1], frame.orientation[1] * frame.pixel_spacing[0]]
        )
        planes.append(Plane(mask, segment, frame.position, axes, frame.thickness))
    return _with_place(planes, shared)


def _with_place(planes: list[Plane], shared: Dataset) -> list[Plane]:
    """Planes of a radiograph have no position: a single plane then lies on the single slice."""
    without = [plane for plane in planes if np.isnan(plane.position).any()]
    if not without:
        return planes
    if shared.get("PlaneOrientationSequence") or len(without) < len(planes):
        raise SegmentationError(
            "Frames of the segmentation do not say where they lie.",
            "Export the segmentation again from the program that made it.",
            code="no_place",
        )
    return [Plane(plane.mask, plane.segment, np.zeros(3), plane.axes, plane.thickness) for plane in planes]
