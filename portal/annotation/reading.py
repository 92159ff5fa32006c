"""What a reader does with a task: save, submit, skip, flag, go on. The only writer of drafts and reads.

A draft counts as saved only after it was read back: the answers from the database, the segmentation from the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from portal.accounts.models import User
from portal.annotation import answers as answering
from portal.annotation import overlaps, segmentations, states
from portal.annotation.errors import Incomplete, NotStored, StaleDraft
from portal.annotation.models import Campaign, Draft, Read, Task
from studies.ingest import store

MAX_SECONDS = 24 * 3600


@dataclass(frozen=True)
class ReadBack:
    """A draft or read as it lies in the database and on the disk, with the digest computed from there."""

    record: Draft | Read
    digest: str
    sop_instance_uid: str
    series_instance_uid: str
    sha256: str

    @property
    def saved_at(self) -> datetime:
        return self.record.saved_at if isinstance(self.record, Draft) else self.record.submitted_at

    @property
    def intact(self) -> bool:
        return self.digest == self.record.digest


def newest_draft(task: Task) -> Draft | None:
    return Draft.objects.filter(task=task).select_related("segmentation").order_by("-version").first()


def newest_read(task: Task) -> Read | None:
    return Read.objects.filter(task=task).select_related("segmentation").order_by("-version").first()


def read_back(record: Draft | Read) -> ReadBack:
    """Fetch a draft or read anew and compute its digest from what is stored; NotStored where a part is gone."""
    stored = type(record).objects.select_related("segmentation").get(pk=record.pk)
    if stored.segmentation is None:
        return ReadBack(stored, answering.digest(stored.answers, None), "", "", "")
    instance = segmentations.instance_of(stored)
    if instance is None:
        raise NotStored("The segmentation of this draft is gone from the archive.", "Draw it again and save.")
    sha256 = segmentations.sha256_on_disk(instance)
    return ReadBack(
        stored,
        answering.digest(stored.answers, (instance.sop_instance_uid, sha256)),
        instance.sop_instance_uid,
        stored.segmentation.series_instance_uid,
        sha256,
    )


@transaction.atomic
def save_draft(
    task: Task,
    *,
    base_version: int,
    answers: Mapping[str, Any],
    segmentation_sop_uid: str | None,
    active_seconds: int,
) -> ReadBack:
    """Add a draft on top of `base_version`, or return the newest one where it has this very content already.

    StaleDraft where a newer draft has other content; Incomplete where an answer is of the wrong kind; NotReadable
    where the campaign is not being read; NotStored where the segmentation is not this reader's or reads back wrong.
    """
    task = _locked(task)
    states.require_readable(task)
    content = answering.normalised(task.campaign.questions.all(), answers)
    instance = segmentations.own_instance(task, segmentation_sop_uid) if segmentation_sop_uid else None
    file = (instance.sop_instance_uid, segmentations.sha256_on_disk(instance)) if instance else None
    digest = answering.digest(content, file)
    newest = newest_draft(task)
    _spend(task, active_seconds)
    if newest is not None and newest.digest == digest:
        return _sound(newest)
    if base_version != (newest.version if newest else 0):
        raise StaleDraft(newest)
    task.state = states.task_after(task, "revise" if task.state == Task.State.SUBMITTED else "save")
    task.save(update_fields=["state"])
    draft = Draft.objects.create(
        task=task,
        version=base_version + 1,
        answers=content,
        segmentation=instance.series if instance else None,
        segmentation_sop_instance_uid=instance.sop_instance_uid if instance else "",
        active_seconds=task.active_seconds,
        digest=digest,
    )
    return _sound(draft)


@transaction.atomic
def submit(task: Task, *, base_version: int, active_seconds: int = 0) -> ReadBack:
    """Turn the newest draft into a read. The same draft submitted again is the same read.

    Incomplete says what is missing, StaleDraft that `base_version` is not the newest draft.
    """
    task = _locked(task)
    states.require_readable(task)
    draft = newest_draft(task)
    if draft is None:
        raise Incomplete({"draft": "Nothing is saved yet for this case."})
    if draft.version != base_version:
        raise StaleDraft(draft)
    _spend(task, active_seconds)
    stored = _sound(draft)
    errors = answering.missing(task.campaign.questions.all(), draft.answers) | _missing_segments(task, draft)
    if errors:
        raise Incomplete(errors)
    last = newest_read(task)
    if last is not None and last.digest == stored.digest:
        return _sound(last)
    task.state = states.task_after(task, "submit")
    task.submitted_at = timezone.now()
    task.save(update_fields=["state", "submitted_at"])
    read = Read.objects.create(
        task=task,
        version=(last.version if last else 0) + 1,
        answers=draft.answers,
        segmentation=draft.segmentation,
        segmentation_sop_instance_uid=draft.segmentation_sop_instance_uid,
        active_seconds=task.active_seconds,
        digest=stored.digest,
    )
    if draft.segmentation is not None:
        store.publish_drawing(draft.segmentation)
    transaction.on_commit(lambda: overlaps.request_measurement(task.campaign, by=task.reader))
    return _sound(read)


def _missing_segments(task: Task, draft: Draft) -> dict[str, str]:
    required = [label for label in task.campaign.segment_labels.all() if label.required]
    if not required:
        return {}
    instance = segmentations.instance_of(draft)
    drawn = segmentations.drawn_numbers(task, instance) if instance else set()
    return {f"segment-{label.number}": f"Draw “{label.name}”." for label in required if label.number not in drawn}


@transaction.atomic
def skip(task: Task) -> Task:
    """Put the case aside; it comes again after the open ones. A draft is kept."""
    task = _locked(task)
    states.require_readable(task)
    task.state = states.task_after(task, "skip")
    task.save(update_fields=["state"])
    return task


@transaction.atomic
def flag(task: Task, text: str) -> Task:
    """Report a problem with the case to the campaign's manager; an empty text takes the report back."""
    task = _locked(task)
    states.require_readable(task)
    task.flag = text.strip()[:2000]
    task.save(update_fields=["flag"])
    return task


@transaction.atomic
def opened(task: Task) -> None:
    """Remember when the reader first saw the case."""
    Task.objects.filter(pk=task.pk, opened_at=None).update(opened_at=timezone.now())


def next_task(campaign: Campaign, reader: User, *, after: Task | None = None) -> Task | None:
    """The reader's next case: started and open ones in order, from `after` on and then from the start; then skipped."""
    tasks = Task.objects.filter(campaign=campaign, reader=reader).order_by("position")
    if after is not None:
        tasks = tasks.exclude(pk=after.pk)
    waiting = list(tasks.filter(state__in=[Task.State.OPEN, Task.State.STARTED]))
    if after is not None:
        waiting.sort(key=lambda task: (task.position < after.position, task.position))
    return waiting[0] if waiting else tasks.filter(state=Task.State.SKIPPED).first()


def _locked(task: Task) -> Task:
    return (
        Task.objects.select_for_update(of=("self",))
        .select_related("campaign", "case", "case__image", "reader")
        .get(pk=task.pk)
    )


def _spend(task: Task, active_seconds: int) -> None:
    """The time at the case only grows: another window or a reload may know less of it."""
    seconds = min(max(int(active_seconds), 0), MAX_SECONDS)
    if seconds > task.active_seconds:
        task.active_seconds = seconds
        task.save(update_fields=["active_seconds"])


def _sound(record: Draft | Read) -> ReadBack:
    """Read back, and refuse to call it saved where it differs; the transaction then leaves nothing behind."""
    stored = read_back(record)
    if not stored.intact:
        raise NotStored(
            "What was stored differs from what was sent.",
            "Keep this window open and save again; tell the administrator if it happens twice.",
        )
    return stored
