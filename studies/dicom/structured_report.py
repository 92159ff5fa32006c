"""What a model says about images as a DICOM Structured Report (PS3.16 TID 1500) and back.

Findings with a place, the certainty of classes and measured values are measurement groups (TID 1501). A place is
written twice where it has depth: as rectangles on the slices (SCOORD), which viewers draw, and as the corners of the
box in the patient (SCOORD3D). OHIF takes the groups over as its own rectangles and points because of their tracking
identifiers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from studies.dicom import labels as label_codes
from studies.dicom.errors import ReportError
from studies.dicom.frames import Frame, Grid, regular_grid
from studies.dicom.segmentation import MANUFACTURER, Algorithm
from studies.dicom.uids import derived_uid, new_uid

# OHIF asks for this beginning before it takes a group over; what follows is for people.
TRACKING = "Cornerstone3DTools@^0.1.0"
RECTANGLE, POINT = "RectangleROI", "Probe"

CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")
LENGTH = Code("410668003", "SCT", "Length")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
PRESENCE = Code("121052", "DCM", "Presence of property")
PRESENT = Code("121053", "DCM", "Present")
ABSENT = Code("121054", "DCM", "Absent")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
PRIVATE_SCHEME = "99READROOM"


@dataclass(frozen=True)
class Finding:
    """Something found at a place.

    corners: [2, 3] LPS mm, two opposite corners of a box whose edges run along the axes of the image; equal corners are
        a point. On an image without a place in the patient: (column, row, 0) times the pixel spacing, as on the grid
        of `regular_grid`.
    score: between 0 and 1.
    """

    label: str
    score: float
    corners: np.ndarray


@dataclass(frozen=True)
class Value:
    """A measured quantity; unit as UCUM code, "1" where it has none."""

    name: str
    value: float
    unit: str = "1"


@dataclass(frozen=True)
class Region:
    """A rectangle (four corners) or a point on one frame, in (column, row) as PS3.3 C.18.6 counts them: the middle of
    the first pixel is (0.5, 0.5)."""

    sop_instance_uid: str
    frame: int  # from 1
    points: np.ndarray  # [n, 2]


@dataclass(frozen=True)
class ReadFinding:
    """A finding as a report has it; box: [8, 3] LPS mm, None where the report has places on images only."""

    label: str
    score: float | None
    regions: tuple[Region, ...]
    box: np.ndarray | None
    tracking_uid: str


@dataclass(frozen=True)
class Report:
    """scores: certainty of each class between 0 and 1; present: what was decided of a class or looked for."""

    algorithm: tuple[str, str]
    findings: tuple[ReadFinding, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    present: Mapping[str, bool] = field(default_factory=dict)
    values: tuple[Value, ...] = ()


def write(
    source_datasets: Iterable[Dataset],
    *,
    findings: Sequence[Finding] = (),
    scores: Mapping[str, float] | None = None,
    present: Mapping[str, bool] | None = None,
    values: Sequence[Value] = (),
    labels: Sequence[label_codes.Label] = (),
    algorithm: Algorithm,
    series_description: str = "",
    series_number: int = 950,
    instance_number: int = 1,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    software_version: str = "0.1",
) -> Dataset:
    """A report on one series: Comprehensive 3D SR where a finding has a place in the patient, else Comprehensive SR.

    source_datasets: the objects of the series (headers suffice), in any order.
    scores: probability of each class of a classifier; present: whether it counts as present at the operating threshold.
        A detector that found nothing says so by `present={"Nodule": False}`.
    labels: give findings and classes their coded concepts, see `studies.dicom.labels`; a name without one is looked up
        in SNOMED CT, and gets a private code where that does not know it.
    Raises `ReportError` (`empty`, `score`, `source`) and, where there are findings, `GeometryError`.
    """
    sources = list(source_datasets)
    coded = {label["name"]: label for label in labels}
    scores, present = scores or {}, present or {}
    if not sources or not (findings or scores or present or values):
        raise ReportError("A report needs images and something to say about them.", code="empty")
    for score in (*scores.values(), *(finding.score for finding in findings)):
        if not 0 <= score <= 1:
            raise ReportError(f"A score must lie between 0 and 1; got {score}.", code="score")
    uid = sop_instance_uid or new_uid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom warns about odd names in the source
            made = _Writer(sources, coded, algorithm, uid)
            groups = [
                *made.findings(findings),
                *(made.judged(name, scores.get(name), present.get(name)) for name in {**scores, **present}),
                *made.values(values),
            ]
            content = hd.sr.MeasurementReport(
                observation_context=made.observer(), procedure_reported=IMAGING_PROCEDURE, imaging_measurements=groups
            )
            kind = hd.sr.Comprehensive3DSR if made.in_patient else hd.sr.ComprehensiveSR
            return kind(
                evidence=sources,
                content=content[0],
                series_instance_uid=series_instance_uid or new_uid(),
                series_number=series_number,
                sop_instance_uid=uid,
                instance_number=instance_number,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MANUFACTURER,
                software_versions=software_version,
                device_serial_number="0",
                is_complete=True,
                specific_character_set="ISO_IR 192",  # names of labels may have any letters
                series_description=(series_description or "Report")[:64],
            )
    except (ValueError, TypeError, AttributeError) as error:
        raise ReportError(
            f"These images cannot be the source of a report: {error}",
            "Correct the headers of the series and import it again.",
            code="source",
        ) from error


class _Writer:
    """Measurement groups of one report."""

    def __init__(
        self, sources: list[Dataset], labels: dict[str, label_codes.Label], algorithm: Algorithm, uid: str
    ) -> None:
        self.sources, self.labels, self.uid = sources, labels, uid
        self.name, self.version, self.family = algorithm.name[:64], algorithm.version[:64], algorithm.family
        self.in_patient = False

    def observer(self) -> hd.sr.ObservationContext:
        device = hd.sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", self.name, self.version), name=self.name, manufacturer_name=MANUFACTURER
        )
        kind = hd.sr.CodedConcept("121007", "DCM", "Device")
        return hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(kind, device))

    def findings(self, findings: Sequence[Finding]) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
        if not findings:
            return []
        grid = regular_grid(self.sources)
        return [self._finding(number, finding, grid) for number, finding in enumerate(findings, start=1)]

    def _finding(self, number: int, finding: Finding, grid: Grid) -> hd.sr.MeasurementsAndQualitativeEvaluations:
        low, high = _indices(finding.corners, grid)
        point = bool(np.allclose(low, high, atol=1e-6))
        regions = [
            hd.sr.CoordinatesForMeasurement(
                graphic_type="POINT" if point else "POLYLINE",
                graphic_data=_on_slice(low, high, grid, point),
                source_image=_reference(frame),
            )
            for frame in _slices(low, high, grid)
        ]
        measurements = [
            hd.sr.Measurement(name=CERTAINTY, value=100.0 * finding.score, unit=PERCENT, referenced_coordinates=regions)
        ]
        frame_of_reference = grid.frames[0].dataset.get("FrameOfReferenceUID")
        if not point and len(grid.frames) > 1 and frame_of_reference:
            self.in_patient = True
            corners = _box(low, high, grid)
            longest = max(float(np.linalg.norm(corners[0] - corners[k])) for k in (1, 2, 4))
            # Beside the rectangles it would keep OHIF from taking those over.
            place = hd.sr.CoordinatesForMeasurement3D("MULTIPOINT", corners, frame_of_reference)
            measurements.append(
                hd.sr.Measurement(name=LENGTH, value=longest, unit=MILLIMETRE, referenced_coordinates=[place])
            )
        return self._group(
            f"{POINT if point else RECTANGLE}:{finding.label} {number}", finding.label, measurements=measurements
        )

    def judged(
        self, name: str, score: float | None, present: bool | None
    ) -> hd.sr.MeasurementsAndQualitativeEvaluations:
        certainty, decided = None, None
        if score is not None:
            certainty = [hd.sr.Measurement(name=CERTAINTY, value=100.0 * score, unit=PERCENT)]
        if present is not None:
            decided = [hd.sr.QualitativeEvaluation(PRESENCE, PRESENT if present else ABSENT)]
        return self._group(f"Class:{name}", name, measurements=certainty, qualitative_evaluations=decided)

    def values(self, values: Sequence[Value]) -> list[hd.sr.MeasurementsAndQualitativeEvaluations]:
        return [
            self._group(
                f"Value:{value.name}",
                None,
                measurements=[
                    hd.sr.Measurement(
                        name=self._concept(value.name),
                        value=float(value.value),
                        unit=Code(value.unit, "UCUM", value.unit if value.unit != "1" else "no units"),
                    )
                ],
            )
            for value in values
        ]

    def _group(self, identifier: str, label: str | None, **content: Any) -> hd.sr.MeasurementsAndQualitativeEvaluations:
        has_place = identifier.startswith((RECTANGLE, POINT))
        text = f"{TRACKING}:{identifier}" if has_place else identifier
        concept = self._concept(label) if label is not None else None
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(derived_uid(self.uid, identifier), text[:64]),
            finding_type=concept,
            finding_category=label_codes.category_of(self.labels.get(label, {"name": label})) if label else None,
            algorithm_id=hd.sr.AlgorithmIdentification(self.name, self.version, family=self.family),
            source_images=None if has_place else [_source(dataset) for dataset in self.sources],
            **content,
        )

    def _concept(self, name: str) -> Code:
        """The given or SNOMED CT concept, under the model's own word, as two labels may share a concept."""
        label = self.labels.get(name)
        known = Code(*label["type"]) if label and label.get("type") else label_codes.named_concept(name)
        if known is not None:
            return Code(known.value, known.scheme_designator, name[:64])
        value = "".join(letter for letter in name.upper() if letter.isalnum() and letter.isascii())[:16] or "VALUE"
        return Code(value, PRIVATE_SCHEME, name[:64])


def _indices(corners: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner in (x, y, z) index, where voxel k reaches from k - 0.5 to k + 0.5."""
    axes = grid.direction * np.asarray(grid.spacing)[::-1]
    found = np.linalg.solve(axes, (np.asarray(corners, dtype=np.float64) - np.asarray(grid.origin)).T).T
    return found.min(axis=0), found.max(axis=0)


def _slices(low: np.ndarray, high: np.ndarray, grid: Grid) -> list[Frame]:
    """The frames whose middle lies in the box, the middle one first; the nearest one where the box lies between two."""
    last = len(grid.frames) - 1
    middle = min(max(round(float(low[2] + high[2]) / 2), 0), last)
    inside = range(max(0, int(np.ceil(low[2] - 1e-6))), min(last, int(np.floor(high[2] + 1e-6))) + 1)
    order = sorted(set(inside) | {middle}, key=lambda number: (abs(number - middle), number))
    return [grid.frames[number] for number in order]


def _on_slice(low: np.ndarray, high: np.ndarray, grid: Grid, point: bool) -> np.ndarray:
    """(column, row) of the point, or of the closed rectangle from its upper left corner on."""
    rows, columns = grid.shape[1:]
    (left, top), (right, bottom) = low[:2] + 0.5, high[:2] + 0.5
    left, right = np.clip([left, right], 0, columns)
    top, bottom = np.clip([top, bottom], 0, rows)
    if point:
        return np.array([[left, top]])
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _box(low: np.ndarray, high: np.ndarray, grid: Grid) -> np.ndarray:
    """The eight corners in LPS mm; the bits of a corner's number say on which side of x, y and z it lies."""
    choose = np.array([[number >> axis & 1 for axis in range(3)] for number in range(8)])
    axes = grid.direction * np.asarray(grid.spacing)[::-1]
    corners: np.ndarray = np.where(choose == 1, high, low) @ axes.T + np.asarray(grid.origin)
    return corners


def _reference(frame: Frame) -> hd.sr.SourceImageForRegion:
    dataset = frame.dataset
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    return hd.sr.SourceImageForRegion(
        dataset.SOPClassUID, dataset.SOPInstanceUID, [frame.index + 1] if several else None
    )


def _source(dataset: Dataset) -> hd.sr.SourceImageForMeasurementGroup:
    return hd.sr.SourceImageForMeasurementGroup(dataset.SOPClassUID, dataset.SOPInstanceUID)


def read(dataset: Dataset) -> Report:
    """What a TID 1500 report says, ours or another's. Raises `ReportError` (`not_a_report`)."""
    template = (dataset.get("ContentTemplateSequence") or [Dataset()])[0].get("TemplateIdentifier")
    if dataset.get("SOPClassUID") not in (ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage) or (
        template != "1500"
    ):
        raise ReportError(
            "The object is not a measurement report (TID 1500).", "Choose a series of modality SR.", code="not_a_report"
        )
    findings: list[ReadFinding] = []
    scores: dict[str, float] = {}
    present: dict[str, bool] = {}
    values: list[Value] = []
    algorithm = ("", "")
    for group in _measurement_groups(dataset):
        items = list(group.get("ContentSequence") or [])
        algorithm = (_text(items, "111001") or algorithm[0], _text(items, "111003") or algorithm[1])
        label = _meaning(items, "121071")
        numbers = [item for item in items if item.ValueType == "NUM" and item.get("MeasuredValueSequence")]
        places = [place for item in (group, *numbers) for place in item.get("ContentSequence") or []]
        regions = tuple(_region(place) for place in places if place.ValueType == "SCOORD")
        boxes = [place for place in places if place.ValueType == "SCOORD3D"]
        certainty = next((_number(item) / 100 for item in numbers if _named(item, CERTAINTY.value)), None)
        decided = _meaning(items, PRESENCE.value, code=True)
        if regions or boxes:
            box = np.reshape(boxes[0].GraphicData, (-1, 3)).astype(np.float64) if boxes else None
            uid = next((str(item.UID) for item in items if item.ValueType == "UIDREF"), "")
            findings.append(ReadFinding(label, certainty, regions, box, uid))
        elif certainty is not None or decided:
            if certainty is not None:
                scores[label] = certainty
            if decided:
                present[label] = decided == PRESENT.value
        else:
            for item in numbers:
                unit = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
                values.append(Value(item.ConceptNameCodeSequence[0].CodeMeaning, _number(item), unit))
    return Report(algorithm, tuple(findings), scores, present, tuple(values))


def _measurement_groups(dataset: Dataset) -> list[Dataset]:
    containers = [item for item in dataset.get("ContentSequence") or [] if _named(item, "126010")]
    return [
        item for container in containers for item in container.get("ContentSequence") or [] if _named(item, "125007")
    ]


def _named(item: Dataset, value: str) -> bool:
    name = item.get("ConceptNameCodeSequence")
    return bool(name) and name[0].get("CodeValue") == value


def _text(items: list[Dataset], value: str) -> str:
    return next((str(item.TextValue) for item in items if item.ValueType == "TEXT" and _named(item, value)), "")


def _meaning(items: list[Dataset], value: str, *, code: bool = False) -> str:
    """Meaning (or value) of the code item of that name."""
    for item in items:
        if item.ValueType == "CODE" and _named(item, value):
            concept = item.ConceptCodeSequence[0]
            return str(concept.CodeValue if code else concept.CodeMeaning)
    return ""


def _number(item: Dataset) -> float:
    measured = item.MeasuredValueSequence[0]
    return float(measured.get("FloatingPointValue", measured.NumericValue))


def _region(place: Dataset) -> Region:
    image = place.ContentSequence[0].ReferencedSOPSequence[0]
    points = np.reshape(place.GraphicData, (-1, 2)).astype(np.float64)
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    frame = image.get("ReferencedFrameNumber") or 1
    return Region(str(image.ReferencedSOPInstanceUID), int(frame), points)
