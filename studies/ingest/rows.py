"""The rows of a group of staged files: patients, studies, series, instances and their counts.

They are written inside a transaction by `studies.ingest.store` only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Model
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.models import User
from studies.ingest import prepared
from studies.ingest.outcome import Refused, State
from studies.ingest.staging import Staged
from studies.models import ImportBatch, Instance, Origin, Patient, Series, Study

OWN = (Origin.ANNOTATION, Origin.DRAFT)  # a series of these has one author
Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, slots=True)
class Author:
    origin: Origin
    created_by: User | None
    provenance: str
    # How it came in; a series keeps what its first object says.
    import_source: str = ""
    sending_ae_title: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    state: State
    instance: Instance | None = None
    refusal: Refused | None = None


def project_holding(study_instance_uid: str, project_ids: list[int]) -> int | None:
    """Which of these projects has the study; the one that had it first."""
    found = prepared.fetch(prepared.PROJECT_HOLDING, [study_instance_uid, project_ids])
    return found[0][0] if found else None


def already_there(project_id: int, staged: list[Staged]) -> dict[int, Decision]:
    """Decisions, by `id` of the staged file, for objects whose UID the project holds; saves moving their bytes."""
    uids = [one.header.sop_instance_uid for one in staged]
    if not uids or not prepared.fetch(prepared.HELD, [project_id, uids]):
        return {}
    held = _held(project_id, uids)
    found = {}
    for one in staged:
        instance = held.get(one.header.sop_instance_uid)
        if instance is not None:
            found[id(one)] = _same_or_conflict(one, instance)
    return found


def _held(project_id: int, uids: list[str]) -> dict[str, Instance]:
    rows = Instance.objects.filter(project_id=project_id, sop_instance_uid__in=uids)
    return {row.sop_instance_uid: row for row in rows.select_related("series__study").defer("header", "frame_table")}


def _same_or_conflict(one: Staged, instance: Instance) -> Decision:
    if instance.sha256 == one.sha256:
        return Decision(State.DUPLICATE, instance)
    return Decision(
        State.REFUSED,
        refusal=Refused(
            "conflict",
            f"The archive holds another file with SOPInstanceUID {one.header.sop_instance_uid}. The stored one was "
            "kept; this one is in the quarantine.",
        ),
    )


def insert(project_id: int, staged: list[Staged], author: Author) -> dict[int, Decision]:
    """Insert what belongs to `staged`, whose files are in place, in the caller's transaction; a decision for each, by
    `id`."""
    if not staged:
        return {}
    decided: dict[int, Decision] = {}
    studies = _studies(project_id, staged)
    series = _series(studies, staged, author)
    candidates: dict[str, Staged] = {}
    for one in staged:
        header = one.header
        study = studies[header.study_instance_uid]
        refusal = misplaced(header, study, series[(study.pk, header.series_instance_uid)], author)
        if refusal is not None:
            decided[id(one)] = Decision(State.REFUSED, refusal=refusal)
        else:  # the second of two in one group is settled below, against the row of the first
            candidates.setdefault(header.sop_instance_uid, one)
    decided |= join(project_id, list(candidates.values()), author)
    rest = [one for one in staged if id(one) not in decided]
    if rest:
        held = _held(project_id, [one.header.sop_instance_uid for one in rest])
        decided |= {id(one): _same_or_conflict(one, held[one.header.sop_instance_uid]) for one in rest}
    rows = [decision.instance for decision in decided.values() if decision.state is State.STORED]
    _remove_empty(studies.values(), series.values(), {row.series_id for row in rows if row is not None})
    return decided


def join(
    project_id: int, staged: list[Staged], author: Author, batch: ImportBatch | None = None
) -> dict[int, Decision]:
    """Insert files, each of another UID, into series that exist, in one statement; the decisions for those stored.

    Nothing is inserted where a file's series is missing or takes it not. What is there already is left out. `batch`
    counts what was stored, and gets its row if it has none.
    """
    if not staged:
        return {}
    now = timezone.now()
    told = trail.row_of("study.store", user=batch.created_by if batch is not None else None)
    given = {
        "project": project_id,
        "studies": list({one.header.study_instance_uid for one in staged}),
        "series": list({one.header.series_instance_uid for one in staged}),
        "origin": author.origin.value,
        "own": author.origin in OWN,
        "author": author.created_by and author.created_by.pk,
        "now": now,
        "given": json.dumps([_values(one) for one in staged], ensure_ascii=False),
        "batch": batch and batch.pk,
        "source": batch.source if batch is not None and batch.pk is None else None,
        "by": batch and batch.created_by_id,
        "token": told.token_id,
        "address": told.address,
        "request": told.request_id,
    }
    of_uid = {one.header.sop_instance_uid: one for one in staged}
    decided: dict[int, Decision] = {}
    series: dict[int, Series] = {}
    for uid, pk, series_pk, series_uid, batch_pk in prepared.fetch(prepared.JOIN, given):
        if series_pk not in series:
            series[series_pk] = _partial(Series, id=series_pk, series_instance_uid=series_uid)
        one = of_uid[uid]
        decided[id(one)] = Decision(State.STORED, _row(pk, project_id, one, series[series_pk]))
        if batch is not None and batch.pk is None:
            batch.pk, batch.created_at, batch._state.adding = batch_pk, now, False
    return decided


def _values(one: Staged) -> dict[str, Any]:
    header, instance = one.header, one.header.instance
    return {
        "study_uid": header.study_instance_uid,
        "series_uid": header.series_instance_uid,
        "patient_id": header.patient["patient_id"],
        "derived": header.derived_object,
        "sop_uid": header.sop_instance_uid,
        "sop_class": header.sop_class_uid,
        "syntax": header.transfer_syntax_uid,
        "number": instance["instance_number"],
        "rows": instance["rows"],
        "columns": instance["columns"],
        "frames": instance["number_of_frames"],
        "file": one.file,
        "size": one.size,
        "sha256": one.sha256,
        "frame_table": instance["frame_table"],
        "header": instance["header"],
    }


def _row(pk: int, project_id: int, one: Staged, series: Series) -> Instance:
    """The new row, without the header and the table of frames, which take memory."""
    header = one.header
    row = _partial(
        Instance,
        id=pk,
        series_id=series.pk,
        project_id=project_id,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        file=one.file,
        file_size=one.size,
        sha256=one.sha256,
    )
    row.series = series
    return row


def _studies(project_id: int, staged: list[Staged]) -> dict[str, Study]:
    """The studies of the group by UID, created where they are new, locked until the end of the transaction."""
    headers: dict[str, Any] = {}
    for one in staged:
        held = headers.get(one.header.study_instance_uid)
        if held is None or (held.derived_object and not one.header.derived_object):
            headers[one.header.study_instance_uid] = one.header  # images describe a study best
    locked: dict[str, Study] = {}
    for _ in range(5):  # again where another transaction took an empty study back while this one waited for its lock
        missing = sorted(uid for uid in headers if uid not in locked)
        if not missing:
            break
        found = _lock_studies(project_id, missing)
        if not found:
            _create_studies(project_id, [headers[uid] for uid in missing])
        locked |= found
    return locked


def _lock_studies(project_id: int, uids: list[str]) -> dict[str, Study]:
    """All of these studies, or none where one is missing: nobody waits for a new row while holding a lock."""
    locked = {}
    for pk, uid, n, patient_pk, patient_id in prepared.fetch(
        prepared.LOCK_STUDIES, {"project": project_id, "uids": uids}
    ):
        study = _partial(Study, id=pk, project_id=project_id, study_instance_uid=uid, number_of_instances=n)
        study.patient = _partial(Patient, id=patient_pk, project_id=project_id, patient_id=patient_id)
        locked[uid] = study
    return locked


def _partial(model: type[Row], **values: Any) -> Row:
    """A row of which only these columns were read; Django reads the others when they are asked for."""
    return model.from_db(connection.alias, list(values), list(values.values()))


def _create_studies(project_id: int, headers: list[Any]) -> None:
    uids = [h.study_instance_uid for h in headers]
    existing = set(
        Study.objects.filter(project_id=project_id, study_instance_uid__in=uids).values_list(
            "study_instance_uid", flat=True
        )
    )
    new = [h for h in headers if h.study_instance_uid not in existing]
    if not new:
        return
    patients = _patients(project_id, new)
    Study.objects.bulk_create(
        [
            Study(
                project_id=project_id,
                patient=patients[(h.patient["patient_id"], h.patient["issuer_of_patient_id"])],
                study_instance_uid=h.study_instance_uid,
                synthetic=h.synthetic,
                **h.study,
            )
            for h in new
        ],
        ignore_conflicts=True,
    )


def _patients(project_id: int, headers: list[Any]) -> dict[tuple[str, str], Patient]:
    wanted = {(h.patient["patient_id"], h.patient["issuer_of_patient_id"]): h.patient for h in headers}
    Patient.objects.bulk_create(
        [Patient(project_id=project_id, **wanted[key]) for key in sorted(wanted)], ignore_conflicts=True
    )
    rows = Patient.objects.filter(project_id=project_id, patient_id__in=[key[0] for key in wanted])
    return {(row.patient_id, row.issuer_of_patient_id): row for row in rows}


def _series(studies: dict[str, Study], staged: list[Staged], author: Author) -> dict[tuple[int, str], Series]:
    wanted: dict[tuple[int, str], Any] = {}
    for one in staged:
        wanted.setdefault((studies[one.header.study_instance_uid].pk, one.header.series_instance_uid), one.header)
    by_pk = {study.pk: study for study in studies.values()}

    def held() -> dict[tuple[int, str], Series]:
        found = {}
        asked = [list(by_pk), [uid for _, uid in wanted]]
        for pk, study_pk, uid, n, origin, author_pk in prepared.fetch(prepared.SERIES, asked):
            row = _partial(
                Series, id=pk, series_instance_uid=uid, number_of_instances=n, origin=origin, created_by_id=author_pk
            )
            row.study = by_pk[study_pk]
            found[study_pk, uid] = row
        return found

    rows = held()
    new = [key for key in sorted(wanted) if key not in rows]
    if new:  # the studies are locked, so nobody else can add to them meanwhile
        Series.objects.bulk_create(
            [
                Series(
                    study=by_pk[key[0]],
                    series_instance_uid=key[1],
                    origin=author.origin,
                    created_by=author.created_by,
                    provenance=author.provenance,
                    import_source=author.import_source,
                    sending_ae_title=author.sending_ae_title,
                    **wanted[key].series,
                )
                for key in new
            ],
            ignore_conflicts=True,
        )
        rows = held()
    return rows


def misplaced(header: Any, study: Study, series: Series, author: Author) -> Refused | None:
    """Why an object must not join this study or series, if so; `prepared.JOIN` asks the same."""
    theirs, ours = study.patient.patient_id, header.patient["patient_id"]
    if not header.derived_object and theirs and ours and theirs != ours:
        return Refused(
            "patient_mismatch",
            f"Study {study.study_instance_uid} belongs to another patient of this project (PatientID differs).",
        )
    if series.origin != author.origin or (
        author.origin in OWN and series.created_by_id != (author.created_by and author.created_by.pk)
    ):
        return Refused(
            "series_mismatch",
            f"Series {series.series_instance_uid} holds objects of another kind or author "
            f"({series.get_origin_display()}); give this object a SeriesInstanceUID of its own.",
        )
    return None


def _remove_empty(studies: Iterable[Study], series: Iterable[Series], filled: set[int]) -> None:
    """Rows that are new and got nothing go away again; the patient stays, as another transaction may just be adding
    a study of it."""
    empty = [one for one in series if one.number_of_instances == 0 and one.pk not in filled]
    if not empty:
        return
    Series.objects.filter(pk__in=[one.pk for one in empty]).delete()
    kept = {one.study_id for one in series if one.pk in filled}
    empty_studies = [study.pk for study in studies if study.number_of_instances == 0 and study.pk not in kept]
    if empty_studies:
        Study.objects.filter(pk__in=empty_studies).delete()
