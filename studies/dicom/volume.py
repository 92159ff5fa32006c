"""A series of images as one 3-D array with its place in the patient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, pixel_array

from studies.dicom import suv
from studies.dicom.errors import PixelError
from studies.dicom.frames import Frame, Grid, regular_grid

SAME_FACTOR = 1e-3  # relative; slices of one series have one factor


@dataclass(frozen=True)
class Uptake:
    """What turns the values of a PET image into SUVbw (g/ml): a factor, or why there is none, in words."""

    factor: float | None
    problem: str = ""


@dataclass(frozen=True)
class Volume:
    """Voxel values and geometry.

    array: indexed [z, y, x], modality values (HU for CT); slices sorted along the normal.
    spacing: (z, y, x) in mm.
    origin: (x, y, z) in LPS mm of the centre of voxel [0, 0, 0].
    direction: 3×3, columns are the LPS unit vectors of the x, y and z index axes.
    uptake: of PET images alone.
    """

    array: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3))
    uptake: Uptake | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape  # type: ignore[return-value]

    @property
    def affine(self) -> np.ndarray:
        """4×4: homogeneous (x, y, z) index to LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.direction) * np.asarray(self.spacing)[::-1]
        affine[:3, 3] = self.origin
        return affine

    @property
    def voxel_volume_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000.0

    @property
    def anisotropy(self) -> float:
        """How many times longer than wide a voxel is; of a single image, whose thickness tells nothing, a pixel."""
        lengths = self.spacing if self.shape[0] > 1 else self.spacing[1:]
        return float(max(lengths) / min(lengths))

    def like(self, array: np.ndarray) -> Volume:
        """Other values on the same grid. Raises `ValueError` where the shape differs."""
        if array.shape != self.array.shape:
            raise ValueError(f"The array has shape {array.shape}, the grid {self.array.shape}")
        return replace(self, array=array)


def from_datasets(datasets: Iterable[Dataset]) -> Volume:
    """The volume of a series' objects: single-frame images or enhanced multi-frame ones.

    Values are rescaled slice by slice (RescaleSlope, RescaleIntercept or the Modality LUT). They stay integers (int16
    or int32) where every slope is 1 and every intercept whole, otherwise they become float32.
    Raises `GeometryError` (see `regular_grid`) and `PixelError`.
    """
    grid = regular_grid(datasets)
    shape = grid.shape
    whole = all(_is_whole(frame) for frame in grid.frames)
    array = np.empty(shape, dtype=np.int32 if whole else np.float32)
    decoded: dict[int, np.ndarray] = {}
    for z, frame in enumerate(grid.frames):
        key = id(frame.dataset)
        if key not in decoded:
            if len(decoded) > 1:
                decoded.clear()
            decoded[key] = _pixels(frame.dataset)
        array[z] = _modality_values(frame, decoded[key], whole)
    return Volume(_narrow(array), grid.spacing, grid.origin, grid.direction, _uptake(grid))


def geometry(datasets: Iterable[Dataset]) -> Grid:
    """The grid alone; needs no pixel data."""
    return regular_grid(datasets)


def _uptake(grid: Grid) -> Uptake | None:
    sources = {id(frame.dataset): frame.dataset for frame in grid.frames}.values()
    if not all(str(dataset.get("Modality", "")) == "PT" for dataset in sources):
        return None
    try:
        factors = [suv.factor(dataset) for dataset in sources]
    except PixelError as error:
        return Uptake(None, error.cause)
    if max(factors) - min(factors) > SAME_FACTOR * min(factors):
        return Uptake(None, "The slices of the series have different factors from activity to SUV.")
    return Uptake(factors[0])


def _is_whole(frame: Frame) -> bool:
    dataset = frame.dataset
    if "ModalityLUTSequence" in dataset or "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        return False
    return frame.slope == 1.0 and float(frame.intercept).is_integer()


def _pixels(dataset: Dataset) -> np.ndarray:
    """[frame, row, column] stored values."""
    if str(dataset.get("SamplesPerPixel") or 1) != "1":
        raise PixelError(
            "The images are in colour; a volume needs one grey value per pixel.",
            "Choose the original series instead of a screen capture.",
            code="colour",
        )
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise PixelError(
            "An object of the series has no pixel data.", "Choose a series of images.", code="no_pixel_data"
        )
    try:
        pixels = pixel_array(dataset)  # unlike the attribute, keeps no copy in the data set
        return pixels.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    except Exception as error:  # decoders raise whatever they like
        raise PixelError(
            f"The pixels of an image cannot be decoded ({type(error).__name__}).",
            "The file is probably truncated or damaged: import it again from its source.",
            code="undecodable",
        ) from error


def _modality_values(frame: Frame, pixels: np.ndarray, whole: bool) -> np.ndarray:
    values = pixels[frame.index]
    if "ModalityLUTSequence" in frame.dataset:
        return apply_modality_lut(values, frame.dataset)
    if whole:
        return values.astype(np.int32) + np.int32(frame.intercept)
    return values.astype(np.float64) * frame.slope + frame.intercept


def _narrow(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.int32:
        return array
    limits = np.iinfo(np.int16)
    if array.size and array.min() >= limits.min and array.max() <= limits.max:
        return array.astype(np.int16)
    return array
