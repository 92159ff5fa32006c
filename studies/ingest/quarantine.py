"""Refused files: another attempt, a decision on a conflict, and the end of one that nobody needs.

A stored object is never replaced. Of two files with the same SOP Instance UID the first one stays, because reads,
cohorts and results refer to it; PS3.4 asks for a new UID where an object was changed. A settled refusal keeps its row.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.models import User
from studies.dicom import part10
from studies.dicom.comparison import Difference, differences
from studies.ingest import rows
from studies.ingest.outcome import Outcome, Refused, State
from studies.ingest.staging import Staged, media, quarantined, settle, stage
from studies.ingest.store import storable
from studies.models import ImportBatch, Instance, Origin, Refusal

CONFLICT = "conflict"


class QuarantineError(Exception):
    """Something that cannot be done to a refused file, with what to do instead."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(f"{cause} {next_step}")
        self.cause = cause
        self.next_step = next_step


def path_of(refusal: Refusal) -> Path:
    """The kept bytes. Raises `QuarantineError` where there are none."""
    if not refusal.file or not quarantined(refusal.file).is_file():
        raise QuarantineError("The bytes of this file were not kept.", "Send it again from its source.")
    return quarantined(refusal.file)


def retry(refusal: Refusal, *, by: User | None) -> Outcome:
    """Send a refused file through the store again, as what it was sent the first time.

    The refusal is settled where it is stored now or was there already; otherwise it shows the new reason.
    Raises `QuarantineError` where nothing was kept or somebody else settled it meanwhile.
    """
    _require_open(refusal)
    try:
        staged = stage(path_of(refusal), refusal.name)
    except Refused as refused:
        copy = refused.path
        if copy is not None:
            copy.unlink(missing_ok=True)
        Refusal.objects.open().filter(pk=refusal.pk).update(code=refused.code, reason=storable(refused.reason))
        return Outcome(State.REFUSED, refusal.name, code=refused.code, reason=refused.reason)
    try:
        decision = _place(staged, refusal, by)
    except QuarantineError:
        staged.path.unlink(missing_ok=True)
        raise
    if decision.state is not State.STORED:
        staged.path.unlink(missing_ok=True)
    if decision.refusal is None:
        quarantined(refusal.file).unlink(missing_ok=True)
    return Outcome(
        decision.state,
        refusal.name,
        instance=decision.instance,
        code=decision.refusal.code if decision.refusal else "",
        reason=decision.refusal.reason if decision.refusal else "",
        study_instance_uid=staged.header.study_instance_uid,
        sop_class_uid=staged.header.sop_class_uid,
        sop_instance_uid=staged.header.sop_instance_uid,
    )


def retry_all(refusals: QuerySet[Refusal], *, by: User | None, seconds: float) -> Counter[str]:
    """Retry those that are open and kept, oldest first, until the time is over.

    Returns how many are "stored", "duplicate" and "refused" now, and how many are "left" for another call.
    """
    waiting = refusals.open().exclude(file="").order_by("pk")  # type: ignore[attr-defined]
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    keys = list(waiting.values_list("pk", flat=True))
    for number, pk in enumerate(keys):
        if time.monotonic() > end:
            counts["left"] = len(keys) - number
            break
        refusal = Refusal.objects.select_related("batch", "created_by").get(pk=pk)
        try:
            counts[retry(refusal, by=by).state.value] += 1
        except QuarantineError:
            counts["refused"] += 1
    return counts


def discard_all(refusals: QuerySet[Refusal], *, by: User | None) -> int:
    """Discard those that are open; returns how many."""
    count = 0
    for refusal in refusals.open().order_by("pk"):  # type: ignore[attr-defined]
        with contextlib.suppress(QuarantineError):
            discard(refusal, by=by)
            count += 1
    return count


def _place(staged: Staged, refusal: Refusal, by: User | None) -> rows.Decision:
    project_id = refusal.batch.project_id
    known = rows.already_there(project_id, [staged])
    if not known:
        settle([staged], project_id)
    origin = Origin(refusal.origin)
    author = rows.Author(
        origin,
        refusal.created_by or (by if origin is Origin.ANNOTATION else None),
        refusal.provenance,
        str(refusal.batch.source),
        refusal.batch.sending_ae_title,
    )
    with transaction.atomic():
        locked = _locked(refusal)
        decision = (known or rows.insert(project_id, [staged], author))[id(staged)]
        if decision.refusal is not None:
            Refusal.objects.filter(pk=locked.pk).update(
                code=decision.refusal.code,
                reason=storable(decision.refusal.reason),
                sop_instance_uid=staged.header.sop_instance_uid,
                study_instance_uid=staged.header.study_instance_uid,
            )
            return decision
        _settle(locked, Refusal.State.STORED, by)
        now = decision.state.value
        ImportBatch.objects.filter(pk=locked.batch_id).update(**{now: F(now) + 1, "refused": F("refused") - 1})
    return decision


def keep_stored(refusal: Refusal, *, by: User | None) -> None:
    """Decide a conflict: the stored object counts. The other file stays in the quarantine until it is discarded."""
    if refusal.code != CONFLICT:
        raise QuarantineError("This file does not contradict a stored one.", "Try it again, or discard it.")
    with transaction.atomic():
        _settle(_locked(refusal), Refusal.State.KEPT, by)


def discard(refusal: Refusal, *, by: User | None) -> None:
    """Delete the bytes of a refused file for good; its row stays. Raises `QuarantineError` where that was done."""
    with transaction.atomic():
        locked = Refusal.objects.select_for_update().get(pk=refusal.pk)
        if locked.state not in (Refusal.State.OPEN, Refusal.State.KEPT):
            raise _settled()
        _settle(locked, Refusal.State.DISCARDED, by)
    if refusal.file:
        quarantined(refusal.file).unlink(missing_ok=True)


def held_instance(refusal: Refusal) -> Instance | None:
    """The stored object that a conflicting file contradicts."""
    if refusal.code != CONFLICT or not refusal.sop_instance_uid:
        return None
    return (
        Instance.objects.filter(project=refusal.batch.project_id, sop_instance_uid=refusal.sop_instance_uid)
        .select_related("series__study__patient")
        .defer("header", "frame_table")
        .first()
    )


def compare(refusal: Refusal) -> tuple[list[Difference], bool]:
    """What differs between the stored object (`ours`) and a conflicting file (`theirs`), and whether that is all.

    Raises `QuarantineError` where one of them is missing or cannot be read.
    """
    instance, path = held_instance(refusal), path_of(refusal)
    if instance is None:
        raise QuarantineError("The object that this file contradicts is no longer stored.", "Try the file again.")
    try:
        with part10.mapped(media(instance.file)) as ours, part10.mapped(path) as theirs:
            return differences(part10.walk(ours), part10.walk(theirs))
    except (OSError, part10.Part10Error) as error:
        raise QuarantineError(
            "One of the two files cannot be read.", "Run manage.py check_archive to find what is missing."
        ) from error


def _require_open(refusal: Refusal) -> None:
    if refusal.state != Refusal.State.OPEN:
        raise _settled()


def _settled() -> QuarantineError:
    return QuarantineError("This file was settled already.", "Reload the page to see by whom and how.")


def _locked(refusal: Refusal) -> Refusal:
    locked = Refusal.objects.select_for_update().get(pk=refusal.pk)
    _require_open(locked)
    return locked


def _settle(refusal: Refusal, state: Refusal.State, by: User | None) -> None:
    refusal.state, refusal.settled_at, refusal.settled_by = state, timezone.now(), by
    refusal.save(update_fields=["state", "settled_at", "settled_by"])
    trail.record("refusal.settle", refusal, project=refusal.batch.project_id, user=by, state=str(state))
