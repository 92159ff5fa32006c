"""What the reading page needs to know about a task, as JSON."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from inference.prediction.models import Prediction
from inference.registry import manifest as manifests
from portal.annotation import reading
from portal.annotation.models import Campaign, Read, SegmentLabel, Task
from studies.dicom import labels as label_codes


def dicomweb_root(task: Task) -> str:
    return f"/dicomweb/tasks/{task.pk}"


def next_url(task: Task) -> str:
    return f"{reverse('reading_next', args=[task.campaign_id])}?after={task.pk}"


def state(task: Task) -> dict[str, Any]:
    """Everything about the task and its newest draft; the draft is read back from the database and the disk."""
    campaign, case = task.campaign, task.case
    own = Task.objects.filter(campaign=campaign, reader_id=task.reader_id).exclude(state=Task.State.WITHDRAWN)
    positions = list(own.order_by("position").values_list("pk", "state"))
    newest = reading.newest_draft(task)
    read = reading.newest_read(task)
    return {
        "task": task.pk,
        "state": task.state,
        "flag": task.flag,
        "campaign": {
            "id": campaign.pk,
            "name": campaign.name,
            "instructions": campaign.instructions,
            "state": campaign.state,
            "blinded": campaign.blinded,
            "due_date": campaign.due_date.isoformat() if campaign.due_date else None,
        },
        "questions": [
            {
                "id": question.pk,
                "position": question.position,
                "text": question.text,
                "kind": question.kind,
                "choices": question.choices,
                "required": question.required,
            }
            for question in campaign.questions.all()
        ],
        "segments": [segment(label) for label in campaign.segment_labels.all()],
        "draft": draft_json(reading.read_back(newest), task.active_seconds) if newest else None,
        "read": read_json(read) if read else None,
        "active_seconds": task.active_seconds,
        "dicomweb_root": dicomweb_root(task),
        "study_uid": case.study.study_instance_uid,
        "image_series_uid": case.image.series_instance_uid,
        "case_name": case.name,
        "position": 1 + next((i for i, (pk, _) in enumerate(positions) if pk == task.pk), 0),
        "total": len(positions),
        "submitted": sum(state == Task.State.SUBMITTED for _, state in positions),
        "ai": ai_of(campaign, task),
        "next_url": next_url(task),
    }


def segment(label: SegmentLabel) -> dict[str, Any]:
    """A structure to draw, with the coded concepts that its SEG gets: [value, scheme, meaning]."""
    named = {"number": label.number, "name": label.name}
    category, kind = label_codes.category_of(named), label_codes.type_of(named)
    return {
        **named,
        "color": label.color,
        "required": label.required,
        "category": [category.value, category.scheme_designator, category.meaning],
        "type": [kind.value, kind.scheme_designator, kind.meaning],
    }


def draft_json(stored: reading.ReadBack, active_seconds: int) -> dict[str, Any]:
    segmentation = None
    if stored.sop_instance_uid:
        segmentation = {
            "series_uid": stored.series_instance_uid,
            "sop_uid": stored.sop_instance_uid,
            "sha256": stored.sha256,
        }
    return {
        "version": stored.record.version,
        "answers": stored.record.answers,
        "segmentation": segmentation,
        "active_seconds": active_seconds,
        "saved_at": stored.saved_at.isoformat(),
        "digest": stored.digest,
        "intact": stored.intact,
    }


def read_json(read: Read) -> dict[str, Any]:
    return {"version": read.version, "digest": read.digest, "submitted_at": read.submitted_at.isoformat()}


def ai_of(campaign: Campaign, task: Task) -> dict[str, Any] | None:
    """The model result that this campaign shows for the case; None where it shows none or there is none."""
    prediction = shown_prediction(campaign, task)
    if prediction is None:
        return None
    series, report = prediction.segmentation, prediction.report
    return {
        "version": str(prediction.version),
        "segmentation_series_uid": series.series_instance_uid if series else None,
        "report_series_uid": report.series_instance_uid if report else None,
        "least": manifests.least_shown(prediction.version.manifest),
        "scores": prediction.scores,
        "measurements": prediction.measurements,
    }


def shown_prediction(campaign: Campaign, task: Task) -> Prediction | None:
    if campaign.ai_version_id is None:
        return None
    return (
        Prediction.objects.filter(version_id=campaign.ai_version_id, image_id=task.case.image_id)
        .select_related("version__model", "segmentation", "report")
        .first()
    )
