"""All reads of a campaign for other programs. Cases go by their pseudonym; nothing says who the patient is."""

from __future__ import annotations

import csv
import io
from typing import Any

from portal.annotation.models import Campaign, Read
from portal.frame.spreadsheets import safe

FIXED = ["case", "reader", "version", "counts", "submitted_at", "active_seconds"]


def file_name(campaign: Campaign, extension: str) -> str:
    return f"campaign-{campaign.pk}-reads.{extension}"


def rows(campaign: Campaign) -> list[dict[str, Any]]:
    """Every read of every version, `counts` marking the newest of each task."""
    reads = list(
        Read.objects.filter(task__campaign=campaign)
        .select_related("task__case", "task__reader")
        .order_by("task__case__name", "task__reader__username", "version")
    )
    newest = {read.task_id: read.pk for read in reads}
    questions = list(campaign.questions.all())
    return [
        {
            "case": read.task.case.name,
            "reader": read.task.reader.username,
            "version": read.version,
            "counts": newest[read.task_id] == read.pk,
            "submitted_at": read.submitted_at.isoformat(),
            "active_seconds": read.active_seconds,
            "answers": {question.text: read.answers.get(str(question.pk)) for question in questions},
            "segmentation": bool(read.segmentation_id),
            "flag": read.task.flag,
            "digest": read.digest,
        }
        for read in reads
    ]


def as_json(campaign: Campaign) -> dict[str, Any]:
    return {
        "campaign": campaign.name,
        "project": campaign.project.slug,
        "cohort": campaign.cohort.name,
        "state": campaign.state,
        "overlap": campaign.overlap,
        "ai_version": str(campaign.ai_version) if campaign.ai_version else None,
        "instructions": campaign.instructions,
        "questions": [
            {"text": q.text, "kind": q.kind, "choices": q.choices, "required": q.required}
            for q in campaign.questions.all()
        ],
        "segments": [{"number": s.number, "name": s.name} for s in campaign.segment_labels.all()],
        "reads": rows(campaign),
    }


def as_csv(campaign: Campaign) -> str:
    """One line for each read, one column for each question."""
    questions = [question.text for question in campaign.questions.all()]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([*FIXED, *map(safe, questions), "segmentation", "flag", "digest"])
    for row in rows(campaign):
        writer.writerow(
            [
                *(safe(row[name]) for name in FIXED),
                *(safe(row["answers"][text]) for text in questions),
                row["segmentation"],
                safe(row["flag"]),
                row["digest"],
            ]
        )
    return stream.getvalue()
