"""Objects that arrived: the one way into the archive, and what to answer for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from django.db.models import F
from pynetdicom.dsutils import split_dataset

from studies.ingest import limits, store
from studies.ingest.outcome import Outcome, Refused, State
from studies.ingest.staging import Staged
from studies.models import ImportBatch, Instance

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
NOT_AUTHORISED = 0x0124
PROCESSING_FAILURE = 0x0110
_STATUS = {"conflict": 0x0111, "patient_mismatch": MISMATCH, "series_mismatch": MISMATCH, "too_large": OUT_OF_RESOURCES}


def status_of(outcome: Outcome) -> int:
    """The status of C-STORE (PS3.4 table B.2-1, PS3.7 annex C)."""
    return _STATUS.get(outcome.code, CANNOT_UNDERSTAND) if outcome.refused else SUCCESS


def stage(path: Path) -> Staged | tuple[str, Refused]:
    """Take over a file in the incoming folder."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(limits.COPY):
            digest.update(piece)
    return store.stage_written(path, "", path.stat().st_size, digest.hexdigest())


def store_entries(entries: Iterable[Staged | tuple[str, Refused]], batch: ImportBatch) -> Iterator[Outcome]:
    """Store staged files a group at a time; each group is on disk when its outcomes are given."""
    group: list[Staged | tuple[str, Refused]] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += entry.size if isinstance(entry, Staged) else 0
        if len(group) >= limits.GROUP_FILES or size >= limits.GROUP_BYTES:
            yield from _store_group(group, batch)
            group, size = [], 0
    if group:
        yield from _store_group(group, batch)


def _store_group(group: list[Staged | tuple[str, Refused]], batch: ImportBatch) -> list[Outcome]:
    uids = [entry.header.sop_instance_uid for entry in group if isinstance(entry, Staged)]
    held = {
        row.sop_instance_uid: row
        for row in Instance.objects.filter(project_id=batch.project_id, sop_instance_uid__in=uids).defer("header")
    }
    known, rest = [], []
    for entry in group:
        row = held.get(entry.header.sop_instance_uid) if isinstance(entry, Staged) else None
        if row is not None and isinstance(entry, Staged) and same_data_set(row, entry):
            entry.path.unlink(missing_ok=True)
            known.append(_duplicate(row, entry))
        else:
            rest.append(entry)
    if known:
        ImportBatch.objects.filter(pk=batch.pk).update(duplicate=F("duplicate") + len(known))
    return known + (store.store_staged(rest, batch=batch) if rest else [])


def _duplicate(row: Instance, entry: Staged) -> Outcome:
    return Outcome(
        State.DUPLICATE,
        "",
        instance=row,
        study_instance_uid=entry.header.study_instance_uid,
        sop_class_uid=entry.header.sop_class_uid,
        sop_instance_uid=entry.header.sop_instance_uid,
    )


def same_data_set(row: Instance, entry: Staged) -> bool:
    """Whether a stored file and a received one differ at most in the meta header, which each sender writes anew."""
    if row.sha256 == entry.sha256:
        return True
    if row.transfer_syntax_uid != entry.header.transfer_syntax_uid:
        return False
    ours, theirs = store.absolute_path(row.file), entry.path
    try:
        (_, our_start), (_, their_start) = split_dataset(ours), split_dataset(theirs)
        if ours.stat().st_size - our_start != theirs.stat().st_size - their_start:
            return False
        with open(ours, "rb") as one, open(theirs, "rb") as other:
            one.seek(our_start)
            other.seek(their_start)
            while (piece := one.read(limits.COPY)) == other.read(limits.COPY):
                if not piece:
                    return True
    except Exception:  # a file that pydicom cannot read is settled by the store
        return False
    return False
