"""Maps of values over images as DICOM Parametric Map objects (PS3.3 A.75) and back: probabilities, uncertainty, what a
classifier looked at.

Values are 32-bit floats on the grid of the images, one frame for each image, each frame pointing to its image. A single
image without a place in the patient (radiograph, photograph) gets a map of one frame on the image's own grid: a frame
of reference of its own that begins at the first pixel, so nobody can take it for a place in the patient, and the
reference to the image says where the map belongs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, ParametricMapStorage

from studies.dicom.errors import MapError
from studies.dicom.frames import Grid, regular_grid
from studies.dicom.segmentation import MANUFACTURER, Algorithm
from studies.dicom.uids import derived_uid, new_uid
from studies.dicom.volume import Volume, from_datasets

# CID 7180 and its neighbours in PS3.16; nothing in the standard means the uncertainty of an estimate.
GRADIENT_WEIGHTED_CLASS_ACTIVATION = Code("130403", "DCM", "Gradient-weighted class activation")
SALIENCY = Code("130404", "DCM", "Saliency")
PROBABILITY = Code("110854", "DCM", "Fractional Probabilistic Segmentation")
UNCERTAINTY = Code("uncertainty", "99READROOM", "Uncertainty of a model's answer")
NO_UNITS = Code("1", "UCUM", "no units")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")


@dataclass(frozen=True)
class Description:
    """What the values of a map mean. limits: the lowest and highest value that the map may hold."""

    label: str
    quantity: Code | None
    unit: Code
    limits: tuple[float, float]


def write(
    source_datasets: Iterable[Dataset],
    volume: Volume,
    *,
    quantity: Code,
    unit: Code = NO_UNITS,
    label: str,
    algorithm: Algorithm,
    limits: tuple[float, float] | None = None,
    derivation: str = "",
    series_description: str = "",
    series_number: int = 950,
    instance_number: int = 1,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    software_version: str = "0.1",
) -> Dataset:
    """A Parametric Map object with the values of `volume`.

    source_datasets: the objects of the series (headers suffice), in any order; in several channels those of the first.
    volume: float [z, y, x] on the grid of `volume.from_datasets(source_datasets)`, or of `projection.from_dataset` for
        a single image without a place in the patient.
    quantity, unit: coded, for example `GRADIENT_WEIGHTED_CLASS_ACTIVATION` and `NO_UNITS`.
    label: what the map is of, in words for people; the series' description where that is not given.
    limits: between which values may lie and viewers stretch their colours; the map's own smallest and largest value
        where it is not given.
    derivation: how the values were made, in words.
    Raises `MapError` (`shape`, `geometry`, `not_finite`, `limits`, `source`) and `GeometryError`.
    """
    grid = regular_grid(source_datasets)
    _check_grid(volume, grid)
    values = np.ascontiguousarray(volume.array, dtype=np.float32)
    low, high = _limits(values, limits)
    ordered, pixels = grid.as_stored(values)
    if np.isnan(grid.frames[0].position).any():
        ordered = [_placed(grid)]
    description = (series_description or label)[:64]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom warns about odd names in the source
            dataset = hd.pm.ParametricMap(
                source_images=ordered,
                pixel_array=pixels,
                series_instance_uid=series_instance_uid or new_uid(),
                series_number=series_number,
                sop_instance_uid=sop_instance_uid or new_uid(),
                instance_number=instance_number,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MANUFACTURER,
                software_versions=software_version,
                device_serial_number="0",
                contains_recognizable_visual_features=False,
                real_world_value_mappings=[
                    hd.pm.RealWorldValueMapping(
                        lut_label=label[:16],
                        lut_explanation=label[:64],
                        unit=unit,
                        value_range=(low, high),
                        slope=1.0,
                        intercept=0.0,
                        quantity_definition=quantity,
                    )
                ],
                voi_lut_transformations=[
                    hd.VOILUTTransformation(
                        window_center=(low + high) / 2,
                        window_width=max(high - low, 1e-6),
                        # LINEAR is made for whole numbers: a width below 1 would be a threshold.
                        voi_lut_function="LINEAR_EXACT",
                    )
                ],
                transfer_syntax_uid=ExplicitVRLittleEndian,
                content_label="MAP",
                content_description=description,
                contributing_equipment=[
                    hd.ContributingEquipment(
                        manufacturer=MANUFACTURER,
                        purpose_of_reference=PROCESSING_EQUIPMENT,
                        manufacturer_model_name=algorithm.name[:64],
                        software_versions=algorithm.version[:64],
                        contribution_description=(derivation or label)[:1024],
                    )
                ],
                series_description=description,
            )
    except (ValueError, TypeError, AttributeError) as error:
        raise MapError(
            f"These images cannot be the source of a map: {error}",
            "Correct the headers of the series and import it again.",
            code="source",
        ) from error
    return dataset


def read(dataset: Dataset) -> Volume:
    """The real-world values of a map, float32 [z, y, x].

    Raises `MapError` (`not_a_map`), `PixelError` and `GeometryError`.
    """
    _check_is_map(dataset)
    volume = from_datasets([dataset])
    mapping = _mapping(dataset)
    slope = float(mapping.get("RealWorldValueSlope", 1.0))
    intercept = float(mapping.get("RealWorldValueIntercept", 0.0))
    return volume.like((volume.array.astype(np.float64) * slope + intercept).astype(np.float32))


def describe(dataset: Dataset) -> Description:
    """What a map's header says of its values; headers suffice. Raises `MapError` (`not_a_map`)."""
    _check_is_map(dataset)
    mapping = _mapping(dataset)
    quantity = mapping.get("QuantityDefinitionSequence")
    units = mapping.get("MeasurementUnitsCodeSequence")
    first = mapping.get("DoubleFloatRealWorldValueFirstValueMapped", mapping.get("RealWorldValueFirstValueMapped"))
    last = mapping.get("DoubleFloatRealWorldValueLastValueMapped", mapping.get("RealWorldValueLastValueMapped"))
    return Description(
        label=str(mapping.get("LUTExplanation") or dataset.get("SeriesDescription") or ""),
        quantity=_code(quantity[0].ConceptCodeSequence[0]) if quantity else None,
        unit=_code(units[0]) if units else NO_UNITS,
        limits=(float(first or 0.0), float(last if last is not None else 1.0)),
    )


def _check_grid(volume: Volume, grid: Grid) -> None:
    if volume.shape != grid.shape:
        raise MapError(
            f"The map has shape {volume.shape}, the images {grid.shape} (slices, rows, columns).",
            "Bring the map to the grid of this very series.",
            code="shape",
        )
    if np.isnan(grid.frames[0].position).any():
        return
    there = Volume(volume.array, grid.spacing, grid.origin, grid.direction).affine
    corner = np.array([*volume.shape[::-1]], dtype=float) - 1
    for index in (np.zeros(3), corner):
        apart = (volume.affine - there)[:3] @ [*index, 1.0]
        if np.abs(apart).max() > 0.5 * min(grid.spacing):
            raise MapError(
                "The map does not lie where the images lie.", "Bring the map to the grid of this very series.",
                code="geometry",
            )  # fmt: skip


def _placed(grid: Grid) -> Dataset:
    """The header of an image without a place, lying on its own grid; highdicom takes nothing else."""
    source = Dataset()
    source.update(grid.frames[0].dataset)
    if meta := getattr(grid.frames[0].dataset, "file_meta", None):
        source.file_meta = meta
    source.FrameOfReferenceUID = derived_uid(source.SOPInstanceUID, "own grid")
    source.ImagePositionPatient = [0.0, 0.0, 0.0]
    source.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    source.PixelSpacing = list(grid.spacing[1:])
    source.SliceThickness = grid.spacing[0]
    return source


def _limits(values: np.ndarray, limits: tuple[float, float] | None) -> tuple[float, float]:
    if not np.isfinite(values).all():
        raise MapError("The map holds values that are no numbers (NaN or infinite).", code="not_finite")
    found = (float(values.min()), float(values.max()))
    low, high = (float(limits[0]), float(limits[1])) if limits else found
    if found[0] < low or found[1] > high:
        raise MapError(
            f"The values of the map reach from {found[0]:g} to {found[1]:g}, beyond {low:g} to {high:g}.",
            code="limits",
        )
    return low, high


def _check_is_map(dataset: Dataset) -> None:
    if dataset.get("SOPClassUID") != ParametricMapStorage:
        raise MapError(
            f"The object is not a DICOM Parametric Map (modality {dataset.get('Modality') or 'unknown'}).",
            "Choose a map that a model made.",
            code="not_a_map",
        )


def _mapping(dataset: Dataset) -> Dataset:
    """The first real world value mapping; our maps have one for all frames."""
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])]
    groups += [*(dataset.get("PerFrameFunctionalGroupsSequence") or [])][:1]
    for group in groups:
        if found := group.get("RealWorldValueMappingSequence"):
            return found[0]
    return Dataset()


def _code(item: Dataset) -> Code:
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
