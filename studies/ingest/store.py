"""The one way into the archive.

Order of events for a group of files: bytes to disk and synced, then the rows in one transaction. A crash in between
leaves files that no row points to; a study is never half visible. Files that only join series which exist need a single
statement, which is tried first. Rows are inserted and locked in one fixed order (patients, studies, series, instances,
batch; each sorted by its key), so uploads of the same study wait for each other and never deadlock.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F
from pydicom.dataset import Dataset

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.ingest import limits, rows
from studies.ingest.header import Header
from studies.ingest.outcome import Outcome, Refused, State, not_read
from studies.ingest.staging import Source, Staged, adopt, media, put_back, quarantine, settle, stage
from studies.models import ImportBatch, Instance, Origin, Refusal, Series

__all__ = ["Outcome", "State", "open_batch", "store_dataset", "store_file", "store_files", "store_staged"]


def open_batch(
    project: Project, source: ImportBatch.Source | str, by: User | None = None, *, sending_ae_title: str = ""
) -> ImportBatch:
    """Open the summary of one import. An edge that knows its whole import at once may hand `store_staged` one that was
    not saved: its row is written with the first group, and an import that was killed before leaves none."""
    with transaction.atomic():
        batch = ImportBatch.objects.create(
            project=project, source=source, created_by=by, sending_ae_title=sending_ae_title
        )
        trail.record("import.open", batch, user=by, source=str(source))
    return batch


@dataclass
class Group:
    """Files that will share a transaction and a sync."""

    entries: list[Staged | tuple[str, Refused]] = field(default_factory=list)
    size: int = 0
    text: int = 0

    def add(self, entry: Staged | tuple[str, Refused]) -> None:
        self.entries.append(entry)
        if isinstance(entry, Staged):
            self.size += entry.size
            self.text += len(entry.header.instance["header"])

    @property
    def full(self) -> bool:
        return (
            len(self.entries) >= limits.GROUP_FILES or self.size >= limits.GROUP_BYTES or self.text >= limits.GROUP_TEXT
        )


def store_file(
    source: Source | Refused,
    *,
    batch: ImportBatch,
    name: str = "",
    origin: Origin | str = Origin.ACQUIRED,
    created_by: User | None = None,
    provenance: str = "",
) -> Outcome:
    """Store one Part 10 file (a path, its bytes, or an open binary file) into the batch's project.

    Never raises for a bad file: the outcome says `refused` with code and reason, and a `Refusal` row is kept.
    """
    found = list(
        store_files([(source, name)], batch=batch, origin=origin, created_by=created_by, provenance=provenance)
    )
    return found[0]


def store_files(
    sources: Iterable[tuple[Source | Refused, str]],
    *,
    batch: ImportBatch,
    origin: Origin | str = Origin.ACQUIRED,
    created_by: User | None = None,
    provenance: str = "",
) -> Iterator[Outcome]:
    """Store many files, a transaction and a sync for each group; yields an outcome for each, in order.

    A `Refused` in place of a source stands for something that never became a file, such as an unsafe archive entry.
    """
    group = Group()
    for source, name in sources:
        group.add(_staged(source, name or (source.name if isinstance(source, Path) else "")))
        if group.full:
            entries, group = group.entries, Group()
            yield from store_staged(entries, batch=batch, origin=origin, created_by=created_by, provenance=provenance)
    if group.entries:
        yield from store_staged(group.entries, batch=batch, origin=origin, created_by=created_by, provenance=provenance)


def store_dataset(
    dataset: Dataset,
    *,
    batch: ImportBatch,
    name: str = "",
    origin: Origin | str = Origin.ACQUIRED,
    created_by: User | None = None,
    provenance: str = "",
) -> Outcome:
    """Store an object that we made (`file_meta` with a TransferSyntaxUID; Explicit VR Little Endian where it lacks)."""
    stream = io.BytesIO()
    if getattr(dataset, "file_meta", None) is not None and "TransferSyntaxUID" in dataset.file_meta:
        dataset.save_as(stream, enforce_file_format=True)
    else:
        dataset.save_as(stream, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return store_file(
        stream.getvalue(), batch=batch, name=name, origin=origin, created_by=created_by, provenance=provenance
    )


def stage_written(path: Path, name: str, size: int, sha256: str) -> Staged | tuple[str, Refused]:
    """Take over a file that an edge streamed to the incoming folder (see `staging.incoming`)."""
    try:
        return adopt(path, name, size, sha256)
    except Refused as refusal:
        return name, refusal


def _staged(source: Source | Refused, name: str) -> Staged | tuple[str, Refused]:
    if isinstance(source, Refused):
        return name, source
    try:
        return stage(source, name)
    except Refused as refusal:
        return name, refusal
    except OSError as error:
        return name, not_read(error)


def store_staged(
    entries: list[Staged | tuple[str, Refused]],
    *,
    batch: ImportBatch,
    origin: Origin | str = Origin.ACQUIRED,
    created_by: User | None = None,
    provenance: str = "",
) -> list[Outcome]:
    """Give one group of staged files its rows; the outcomes are in the order of `entries`."""
    staged = [entry for entry in entries if isinstance(entry, Staged)]
    author = rows.Author(Origin(origin), created_by, provenance, str(batch.source), batch.sending_ae_title)
    known = rows.already_there(batch.project_id, staged)
    fresh = [one for one in staged if id(one) not in known]
    try:
        settle(fresh, batch.project_id)
        for one in staged:
            if id(one) in known and known[id(one)].state is State.DUPLICATE:
                _heal(one, known[id(one)].instance)
    except BaseException:
        for one in staged:
            one.path.unlink(missing_ok=True)
        raise
    # From here on a failure leaves the files: a lost connection does not tell whether the commit went through.
    usual = len(staged) == len(entries) == len({one.header.sop_instance_uid for one in staged}) and not known
    joined = _join(batch, staged, author) if usual else {}
    decided = known | joined
    if len(joined) < len(entries):
        with transaction.atomic():
            rest = [one for one in fresh if id(one) not in joined]
            decided |= rows.insert(batch.project_id, rest, author)
            others = [entry for entry in entries if id(entry) not in joined]
            outcomes = [_outcome(entry, decided) for entry in others]
            _count(batch, outcomes)
            _write_refusals(batch, others, outcomes, author)
            _record(batch, outcomes)
    outcomes = [_outcome(entry, decided) for entry in entries]
    for one in staged:
        if decided[id(one)].refusal is None and decided[id(one)].state is not State.STORED:
            one.path.unlink(missing_ok=True)
    return outcomes


def _join(batch: ImportBatch, staged: list[Staged], author: rows.Author) -> dict[int, rows.Decision]:
    if batch.pk is None:  # a single statement, with its rows of the summary and of the audit trail
        found = rows.join(batch.project_id, staged, author, batch)
        batch.__dict__["recorded_series"] = {row.instance.series_id for row in found.values() if row.instance}
        return found
    with transaction.atomic():
        found = rows.join(batch.project_id, staged, author, batch)
        _record(batch, found.values())
    return found


def _heal(one: Staged, held: Instance | None) -> None:
    """The same bytes arrive for an object whose file was lost or cut: they take its place."""
    if held is None:
        return
    path = media(held.file)
    if not path.is_file() or path.stat().st_size != held.file_size:
        put_back(one, path)


def _outcome(entry: Staged | tuple[str, Refused], decided: dict[int, rows.Decision]) -> Outcome:
    if not isinstance(entry, Staged):
        name, refusal = entry
        return Outcome(State.REFUSED, name, code=refusal.code, reason=refusal.reason, **_identity(refusal.header))
    decision = decided[id(entry)]
    return Outcome(
        decision.state,
        entry.name,
        instance=decision.instance,
        code=decision.refusal.code if decision.refusal else "",
        reason=decision.refusal.reason if decision.refusal else "",
        **_identity(entry.header),
    )


def _identity(header: Header | None) -> dict[str, Any]:
    if header is None:
        return {}
    return {
        "study_instance_uid": header.study_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "sop_instance_uid": header.sop_instance_uid,
    }


def _write_refusals(
    batch: ImportBatch, entries: list[Staged | tuple[str, Refused]], outcomes: list[Outcome], author: rows.Author
) -> None:
    refusals = []
    for entry, outcome in zip(entries, outcomes, strict=True):
        if outcome.state is not State.REFUSED:
            continue
        path = entry.path if isinstance(entry, Staged) else entry[1].path
        kept = path if path is not None and path.exists() else None
        refusals.append(
            Refusal(
                batch=batch,
                name=file_name(outcome.name),
                code=outcome.code,
                reason=storable(outcome.reason),
                size=kept.stat().st_size if kept else 0,
                file=quarantine(kept, batch.project_id) if kept else "",
                sop_instance_uid=outcome.sop_instance_uid,
                study_instance_uid=outcome.study_instance_uid,
                origin=author.origin,
                created_by=author.created_by,
                provenance=author.provenance,
            )
        )
    Refusal.objects.bulk_create(refusals)


def storable(text: str) -> str:
    """Text that the database takes: names of files may hold NUL, and bytes that are no UTF-8."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def file_name(name: str) -> str:
    """The last part of a name as given, as the quarantine shows it."""
    return storable(Path(name.replace("\\", "/")).name)[: limits.MAX_NAME] or "unnamed"


def _count(batch: ImportBatch, outcomes: list[Outcome]) -> None:
    totals = {state.value: sum(outcome.state is state for outcome in outcomes) for state in State}
    if batch.pk is None:
        for state, number in totals.items():
            setattr(batch, state, number)
        batch.save()
        trail.record("import.open", batch, user=batch.created_by, source=str(batch.source))
    else:
        ImportBatch.objects.filter(pk=batch.pk).update(**{state: F(state) + n for state, n in totals.items()})


def _record(batch: ImportBatch, outcomes: Iterable[Outcome | rows.Decision]) -> None:
    """One row of the audit trail for each study that the batch added something to."""
    added = {one.instance.series_id for one in outcomes if one.state is State.STORED and one.instance is not None}
    known: set[int] = batch.__dict__.setdefault("recorded_series", set())
    fresh = added - known
    if not fresh:
        return
    rows = Series.objects.filter(pk__in=fresh).values_list("study_id", "study__patient_id").distinct()
    for study, patient in rows:
        trail.record(
            "study.store",
            kind="studies.study",
            key=study,
            project=batch.project_id,
            patient=patient,
            user=batch.created_by,
            once=f"batch {batch.pk}",
            batch=batch.pk,
        )
    known |= fresh


def publish_drawing(series: Series) -> None:
    """An unfinished drawing becomes part of a read: from now on others may see it as their roles say."""
    Series.objects.filter(pk=series.pk, origin=Origin.DRAFT).update(origin=Origin.ANNOTATION)


def absolute_path(instance_file: str) -> Path:
    """The file of an instance on this machine."""
    return media(instance_file)
