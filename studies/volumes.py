"""Series of the archive as volumes and label maps, and their objects as sources of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from django.conf import settings
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from studies.dicom import projection, segmentation
from studies.dicom.errors import ImageError
from studies.dicom.labels import Label
from studies.dicom.volume import Volume, from_datasets
from studies.models import Instance, Series


def load_volume(series: Series) -> Volume:
    """The images of a series as a volume. Raises `studies.dicom.errors.ImageError` with cause and next step."""
    return from_datasets(_read(instance) for instance in _images(series))


def load_with_headers(series: Series) -> tuple[Volume, list[Dataset]]:
    """The images of a series as a volume, and their headers as `source_datasets` gives them: each file is read once.

    Raises `ImageError`.
    """
    datasets = [_read(instance) for instance in _images(series)]
    volume = from_datasets(datasets)
    for dataset in datasets:
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in dataset:
                del dataset[keyword]
    return volume, datasets


def load_image(series: Series) -> Volume:
    """What a classifier sees: the volume, or for a single image that has no place in the patient one slice.

    Raises `ImageError`.
    """
    instances = _images(series)
    if len(instances) == 1 and instances[0].number_of_frames == 1:
        dataset = _read(instances[0])
        if "ImagePositionPatient" not in dataset:
            return projection.from_dataset(dataset)
    return load_volume(series)


def load_label_map(series: Series, like: Volume, labels: Sequence[Label] | None = None) -> np.ndarray:
    """The label map [z, y, x] (uint8) of a SEG series in the grid of `like`; see `segmentation.read`.

    Of several objects in the series the one stored last counts. Raises `ImageError`.
    """
    return segmentation.read(_newest(series), like, labels)


def load_masks(series: Series, like: Volume, labels: Sequence[Label]) -> np.ndarray:
    """bool [label, z, y, x]: as `load_label_map`, but structures that overlap keep all of their voxels."""
    return segmentation.read_masks(_newest(series), like, labels)


def _newest(series: Series) -> Dataset:
    instance = series.instances.defer("header", "frame_table").order_by("-id").first()
    if instance is None:
        raise ImageError("The segmentation series is empty.", "Run the model or import the masks again.", code="empty")
    return _read(instance)


def source_datasets(series: Series) -> list[Dataset]:
    """The headers of a series' images, as `segmentation.write` wants them. Raises `ImageError`."""
    return [_read(instance, pixels=False) for instance in _images(series)]


def _images(series: Series) -> list[Instance]:
    instances = list(series.instances.filter(number_of_frames__gt=0).defer("header", "frame_table").order_by("id"))
    if not instances:
        raise ImageError("The series has no images.", "Choose a series with images.", code="empty")
    return instances


def _read(instance: Instance, *, pixels: bool = True) -> Dataset:
    try:
        return pydicom.dcmread(Path(settings.MEDIA_ROOT) / instance.file, stop_before_pixels=not pixels)
    except (OSError, InvalidDicomError, EOFError) as error:
        raise ImageError(
            f"The file of instance {instance.pk} cannot be read ({type(error).__name__}).",
            "Check the disk, then import the study again.",
            code="file_missing",
        ) from error
