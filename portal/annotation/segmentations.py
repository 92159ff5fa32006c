"""Readers' segmentations: finding the stored object, its bytes, and its label map.

Label maps are read against the grid of the case's image, taken from its headers, so no pixel of the image is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from django.conf import settings

from portal.annotation.errors import AnnotationError, NotStored
from portal.annotation.models import Campaign, Draft, Read, Task
from studies.dicom import segmentation
from studies.dicom.errors import ImageError
from studies.dicom.volume import Volume, geometry
from studies.models import Instance, Origin, Series
from studies.volumes import source_datasets


def provenance(task: Task) -> str:
    """What the archive keeps as the origin of a reader's objects; the task's scope finds them by it."""
    return f"campaign {task.campaign_id} task {task.pk}"


def own_series(task: Task) -> Any:
    """The series that this reader made in this very task."""
    return Series.objects.filter(
        study_id=task.case.study_id,
        origin__in=[Origin.DRAFT, Origin.ANNOTATION],
        created_by_id=task.reader_id,
        provenance=provenance(task),
    )


def own_instance(task: Task, sop_instance_uid: str) -> Instance:
    """The SEG that the reader stored in this task; NotStored where there is none."""
    found = (
        Instance.objects.filter(series__in=own_series(task), sop_instance_uid=sop_instance_uid, series__modality="SEG")
        .select_related("series")
        .first()
    )
    if found is None:
        raise NotStored(
            "The segmentation of this draft is not in the archive.", "Store the segmentation first, then save again."
        )
    return found


def file_of(instance: Instance) -> Path:
    return Path(settings.MEDIA_ROOT) / instance.file


def sha256_on_disk(instance: Instance) -> str:
    """Computed anew from the stored file; NotStored where it cannot be read."""
    try:
        with file_of(instance).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotStored(
            "The stored segmentation cannot be read back from the disk.",
            "Keep this window open and tell the administrator; what you drew is still here.",
        ) from error


def instance_of(state: Draft | Read) -> Instance | None:
    if state.segmentation_id is None:
        return None
    return Instance.objects.filter(
        series_id=state.segmentation_id, sop_instance_uid=state.segmentation_sop_instance_uid
    ).first()


def labels_of(campaign: Campaign) -> list[dict[str, Any]]:
    return [{"number": label.number, "name": label.name} for label in campaign.segment_labels.all()]


def grid(image: Series) -> Volume:
    """The grid of `image` as a volume of no values (a read-only array of zeros that takes no memory)."""
    place = geometry(source_datasets(image))
    return Volume(np.broadcast_to(np.uint8(0), place.shape), place.spacing, place.origin, place.direction)


def label_map(instance: Instance, like: Volume, labels: Sequence[dict[str, Any]]) -> np.ndarray:
    """[z, y, x] uint8 in the grid of `like`, with the numbers of `labels`."""
    try:
        return segmentation.read(pydicom.dcmread(file_of(instance)), like, labels)
    except ImageError as error:
        raise AnnotationError(error.cause, error.next_step) from error


def drawn_numbers(task: Task, instance: Instance) -> set[int]:
    """The segment numbers of which at least one voxel is drawn."""
    numbers = np.unique(label_map(instance, grid(task.case.image), labels_of(task.campaign)))
    return {int(number) for number in numbers if number}
