"""Sign-off of text in the pixels: what is suspected, and who decided what."""

from __future__ import annotations

import pydicom
from django.utils import timezone
from pydicom.dataset import Dataset

from portal.accounts.models import User
from studies.deid.burned_in import Box, suspicions, text_boxes
from studies.deid.errors import DeidError
from studies.deid.models import PixelReview
from studies.dicom.rendering import RenderError, render
from studies.ingest.staging import media
from studies.models import Series

LOOKED_AT = 8  # frames of a series, evenly spread; text of a device stands in all of them


def look(series: Series) -> PixelReview | None:
    """The open or signed question about a series, asked anew where images came; None where all is well."""
    held = PixelReview.objects.filter(series=series).first()
    if held is not None and held.number_of_instances == series.number_of_instances:
        return held
    reasons, boxes = _suspected(series)
    if not reasons:
        if held is not None:
            held.delete()
        return None
    review, _ = PixelReview.objects.update_or_create(
        series=series,
        defaults={
            "reasons": reasons,
            "boxes": [[box.top, box.left, box.bottom, box.right] for box in boxes],
            "number_of_instances": series.number_of_instances,
            "decision": "",
            "by": None,
            "at": None,
        },
    )
    return review


def sign(review: PixelReview, *, decision: str, by: User) -> PixelReview:
    """Raises `DeidError` (`decision`)."""
    if decision not in PixelReview.Decision.values:
        raise DeidError("decision", "That is no decision.", f"Choose {', '.join(PixelReview.Decision.values)}.")
    if decision == PixelReview.Decision.BLANK and not review.boxes:
        raise DeidError("decision", "No place of text is marked in this series.", "Clear the series or keep it back.")
    review.decision, review.by, review.at = decision, by, timezone.now()
    review.save(update_fields=["decision", "by", "at"])
    return review


def boxes_of(review: PixelReview) -> list[Box]:
    return [Box(*box) for box in review.boxes]


def _suspected(series: Series) -> tuple[list[str], list[Box]]:
    instances = list(
        series.instances.filter(number_of_frames__gt=0)
        .only("file", "number_of_frames")
        .order_by("instance_number", "pk")
    )
    frames = [(instance, index) for instance in instances for index in range(instance.number_of_frames)]
    step = max(1, -(-len(frames) // LOOKED_AT))
    chosen = {*frames[::step], *frames[-1:]}
    reasons: list[str] = []
    boxes: set[Box] = set()
    for instance, index in sorted(chosen, key=lambda pair: (pair[0].pk, pair[1])):
        path = media(instance.file)
        try:
            header: Dataset = pydicom.dcmread(path, stop_before_pixels=True)
            reasons += [reason for reason in suspicions(header) if reason not in reasons]
            boxes.update(text_boxes(render(path, index)))
        except (RenderError, OSError):
            if "an image cannot be looked at" not in reasons:
                reasons.append("an image cannot be looked at")
    if boxes:
        reasons.append(f"{len(boxes)} places that look like lines of text")
    return reasons, sorted(boxes)
