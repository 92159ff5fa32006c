"""Sign-off of text in the pixels: what is suspected, and who decided what."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pydicom
from django.db import transaction
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.models import User
from studies.deid.burned_in import Box, suspicions, text_boxes
from studies.deid.errors import DeidError
from studies.deid.models import PixelReview
from studies.dicom.rendering import RenderError, decoded, render
from studies.ingest.staging import media
from studies.models import Instance, Series

LOOKED_AT = 64  # frames of a series, evenly spread, where the option Clean Pixel Data does not ask for all
SHOWN = 6  # pictures for the person who decides
MAX_BOXES = 500
# No pixels that text could be drawn into: masks, doses, words.
WITHOUT_PICTURES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "REG", "SR", "KO", "PR")
Place = tuple[int, int]  # primary key of the instance, frame from 0


def look(series: Series, *, every_frame: bool = False) -> PixelReview:
    """What is known about text in the pixels of a series; asked anew where other images are there."""
    held = PixelReview.objects.filter(series=series).first()
    digest = _digest(series)
    if held is not None and held.digest == digest and (not every_frame or held.looked_at == held.frames):
        return held
    found = _look(series, every_frame)
    same = held is not None and held.digest == digest
    if same and held is not None and held.decision and held.boxes == found["boxes"]:
        found |= {"decision": held.decision, "by": held.by, "at": held.at, "blanked": held.blanked}
    review, _ = PixelReview.objects.update_or_create(
        series=series,
        defaults={"digest": digest, "decision": "", "by": None, "at": None, "blanked": []} | found,
    )
    return review


@transaction.atomic
def sign(review: PixelReview, *, decision: str, by: User, blanked: list[Box] | None = None) -> PixelReview:
    """A person's decision. `blanked`: places that are filled in every frame; without it all that were found.

    Raises `DeidError` (`decision`).
    """
    review = PixelReview.objects.select_for_update(of=["self"]).select_related("series__study").get(pk=review.pk)
    if decision not in PixelReview.Decision.values:
        raise DeidError("decision", "That is no decision.", f"Choose {', '.join(PixelReview.Decision.values)}.")
    places = [Box(*found["box"]) for found in review.boxes] if blanked is None else blanked
    if any(not (0 <= box.top < box.bottom and 0 <= box.left < box.right) for box in places):
        raise DeidError("decision", "A place is no rectangle inside the image.", "Mark it again.")
    if decision == PixelReview.Decision.BLANK and not places:
        raise DeidError(
            "decision", "No place is marked that could be blanked.", "Mark one, or clear the series, or keep it back."
        )
    review.decision, review.by, review.at = decision, by, timezone.now()
    review.blanked = [_listed(box) for box in places] if decision == PixelReview.Decision.BLANK else []
    review.save(update_fields=["decision", "by", "at", "blanked"])
    study = review.series.study
    trail.record(
        "pixels.sign", review.series, project=study.project_id, patient=study.patient_id, user=by,
        decision=str(decision), places=len(review.blanked),
    )  # fmt: skip
    return review


def picture(review: PixelReview, number: int, box: int | None = None, margin: int = 24) -> np.ndarray:
    """An 8-bit picture for the person who decides: shown frame `number`, or the surroundings of found box `box`.

    Raises `DeidError` (`picture`).
    """
    try:
        if box is not None:
            found = review.boxes[box]
            pk, frame = found["instance"], found["frame"]
        else:
            pk, frame = review.pictures[number]
        instance = Instance.objects.get(pk=pk, series=review.series)
        image = render(media(instance.file), frame)
    except (IndexError, Instance.DoesNotExist, RenderError, OSError) as error:
        raise DeidError("picture", "There is no such picture.", "Load the page again.") from error
    if box is None:
        return image
    top, left, bottom, right = found["box"]
    return image[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin]


def _look(series: Series, every_frame: bool) -> dict[str, Any]:
    instances = list(series.instances.filter(number_of_frames__gt=0).order_by("instance_number", "pk"))
    places = [(one.pk, frame) for one in instances for frame in range(one.number_of_frames)]
    files = {one.pk: media(one.file) for one in instances}
    if series.modality in WITHOUT_PICTURES:
        return {"looked_at": len(places), "frames": len(places), "suspected": False, "reasons": [], "boxes": [],
                "pictures": []}  # fmt: skip
    step = 1 if every_frame else max(1, -(-len(places) // LOOKED_AT))
    chosen = sorted({*places[::step], *places[-1:]}, key=places.index)
    reasons: list[str] = []
    found: list[tuple[Place, Box]] = []
    header_of = 0
    header = pydicom.Dataset()
    for pk, frame in chosen:
        try:
            if pk != header_of:
                header_of, header = pk, pydicom.dcmread(files[pk], stop_before_pixels=True)
                reasons += [reason for reason in suspicions(header) if reason not in reasons]
            fine = int(header.get("BitsStored") or 8) > 8
            values = decoded(files[pk], frame) if fine else None
            found += [((pk, frame), box) for box in text_boxes(render(files[pk], frame), values)]
        except Exception:  # decoders raise whatever they like
            if "an image cannot be looked at" not in reasons:
                reasons.append("an image cannot be looked at")
    boxes = _over_frames(found)
    if boxes:
        reasons.append(f"{len(boxes)} place{'s' * (len(boxes) != 1)} that look like lines of text")
    return {
        "looked_at": len(chosen),
        "frames": len(places),
        "suspected": bool(reasons),
        "reasons": reasons,
        "boxes": boxes[:MAX_BOXES],
        "pictures": [list(place) for place in _shown(boxes, places)],
    }


def _over_frames(found: list[tuple[Place, Box]]) -> list[dict[str, Any]]:
    """Boxes that stand at one place in several frames made one; the most frequent first."""
    kept: list[tuple[Place, Box, int]] = []
    for place, box in found:
        for at, (first, other, times) in enumerate(kept):
            if box.overlaps(other) and first != place:
                kept[at] = (first, other.around(box), times + 1)
                break
        else:
            kept.append((place, box, 1))
    kept.sort(key=lambda one: -one[2])
    return [
        {"instance": place[0], "frame": place[1], "box": _listed(box), "times": times} for place, box, times in kept
    ]


def _shown(boxes: list[dict[str, Any]], places: list[Place]) -> list[Place]:
    with_text = list(dict.fromkeys((found["instance"], found["frame"]) for found in boxes))
    spread = places[:: max(1, len(places) // 3)][:3] if not with_text else []
    return (with_text + spread)[:SHOWN]


def _listed(box: Box) -> list[int]:
    return [int(box.top), int(box.left), int(box.bottom), int(box.right)]


def _digest(series: Series) -> str:
    files = series.instances.order_by("pk").values_list("pk", "sha256")
    return hashlib.sha256(repr(list(files)).encode()).hexdigest()
