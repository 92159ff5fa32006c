"""The DICOMweb root of a reading task: one study, the reader's own work, and what the campaign shows of a model.

Nobody but the task's reader gets in. Other readers' objects, reference standards and model results that the campaign
does not show do not exist here.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pydicom
from django.http import Http404, HttpRequest

from portal.accounts.permissions import Action, may
from portal.annotation import blinding, segmentations, states, task_state
from portal.annotation.errors import NotReadable
from portal.annotation.models import Task
from studies.dicomweb.problems import Problem
from studies.dicomweb.scope import Scope, StoreTarget
from studies.ingest.header import Header
from studies.models import Origin, Series, Study
from studies.volumes import source_datasets

STORABLE = {"SEG", "SR"}
_REFERENCED_SERIES, _SERIES_UID = "00081115", "0020000E"


def task_scope(request: HttpRequest, task: int) -> Scope:
    """`/dicomweb/tasks/<id>/`. 404 for everybody but the task's reader; 409 in words while it cannot be read."""
    user: Any = request.user
    found = (
        Task.objects.visible_to(user)
        .filter(pk=task, reader=user)
        .select_related("campaign__project", "case__study", "case__image", "reader")
        .first()
    )
    if found is None or not may(user, Action.READ, found.campaign.project):
        raise Http404("no such task")
    try:
        states.require_readable(found)
    except NotReadable as error:
        raise Problem(409, str(error)) from error
    return Scope(
        base_path=task_state.dicomweb_root(found),
        user=user,
        visible_studies=lambda: Study.objects.filter(pk=found.case.study_id),
        visible_series=lambda: visible_series(found),
        project=found.campaign.project_id,
        store_target=lambda header: store_target(found, header),
        rewrite=blinding.Blinding(found.case.name) if found.campaign.blinded else None,
        amend=(lambda path: with_identity(found, path)) if found.campaign.blinded else None,
    )


def with_identity(task: Task, path: Path) -> bytes:
    """What a blinded reader sent, under the patient's own identity, as the archive keeps it."""
    source = source_datasets(task.case.image)[0]
    dataset = pydicom.dcmread(path)
    blinding.restore(dataset, source)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def visible_series(task: Task):
    """Acquired images of the study, own objects of this task, and the model result that the campaign shows."""
    own = segmentations.own_series(task).values("pk")
    series = Series.objects.filter(study_id=task.case.study_id)
    shown = task_state.shown_prediction(task.campaign, task)
    model = series.filter(pk__in=[shown.segmentation_id, shown.report_id] if shown else [])
    return series.filter(origin=Origin.ACQUIRED) | series.filter(pk__in=own) | model


def store_target(task: Task, header: Header) -> StoreTarget:
    """Segmentations and reports about the study of the task, under the reader's name. `Problem` 403 or 409 else."""
    if header.study_instance_uid != task.case.study.study_instance_uid:
        raise Problem(409, "This object belongs to another study than the task. Store it for the study that is shown.")
    if header.modality not in STORABLE:
        raise Problem(403, "Only segmentations (SEG) and reports (SR) are stored in a reading task.")
    if header.modality == "SEG" and not _refers_to(task, json.loads(header.instance["header"])):
        raise Problem(409, "This segmentation refers to other images than those of the task. Draw on the images shown.")
    taken = Series.objects.filter(study_id=task.case.study_id, series_instance_uid=header.series_instance_uid).first()
    if taken is not None and taken.provenance != segmentations.provenance(task):
        raise Problem(409, "This series exists already. Give the object a SeriesInstanceUID of its own.")
    return StoreTarget(
        project=task.campaign.project,
        origin=Origin.DRAFT,
        created_by=task.reader,
        provenance=segmentations.provenance(task),
    )


def _refers_to(task: Task, header: dict[str, Any]) -> bool:
    """The referenced series, where named, are acquired images of the task's study."""
    named = {
        uid
        for item in (header.get(_REFERENCED_SERIES) or {}).get("Value") or []
        for uid in (item.get(_SERIES_UID) or {}).get("Value") or []
    }
    if not named:
        return False
    images = Series.objects.filter(
        study_id=task.case.study_id, origin=Origin.ACQUIRED, series_instance_uid__in=named
    ).count()
    return images == len(named)
