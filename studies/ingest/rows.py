"""The rows of a group of staged files: patients, studies, series, instances and their counts.

Called inside a transaction by `studies.ingest.store` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portal.accounts.models import User
from studies.ingest.outcome import Refused, State
from studies.ingest.staging import Staged
from studies.models import Instance, Origin, Patient, Series, Study


@dataclass(frozen=True, slots=True)
class Author:
    origin: Origin
    created_by: User | None
    provenance: str


@dataclass(frozen=True, slots=True)
class Decision:
    state: State
    instance: Instance | None = None
    refusal: Refused | None = None


def already_there(project_id: int, staged: list[Staged]) -> dict[int, Decision]:
    """Decisions, by `id` of the staged file, for objects whose UID the project holds; saves moving their bytes."""
    held = {
        instance.sop_instance_uid: instance
        for instance in Instance.objects.filter(
            project_id=project_id, sop_instance_uid__in=[one.header.sop_instance_uid for one in staged]
        ).defer("header", "frame_table")
    }
    found = {}
    for one in staged:
        instance = held.get(one.header.sop_instance_uid)
        if instance is not None:
            found[id(one)] = _same_or_conflict(one, instance)
    return found


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
    """Insert what belongs to `staged`, whose files are in place. Returns a decision for each, by `id`."""
    if not staged:
        return {}
    decided: dict[int, Decision] = {}
    studies = _studies(project_id, staged)
    series = _series(studies, staged, author)
    instances: list[Instance] = []
    candidates: dict[str, Staged] = {}
    for one in sorted(staged, key=lambda s: s.header.sop_instance_uid):
        header = one.header
        study = studies[header.study_instance_uid]
        refusal = _misplaced(header, study, series[(study.pk, header.series_instance_uid)], author)
        if refusal is not None:
            decided[id(one)] = Decision(State.REFUSED, refusal=refusal)
            continue
        first = candidates.get(header.sop_instance_uid)
        if first is not None:
            continue  # twice in one group; settled below against the row of the first
        candidates[header.sop_instance_uid] = one
        instances.append(
            Instance(
                series=series[(study.pk, header.series_instance_uid)],
                project_id=project_id,
                sop_instance_uid=header.sop_instance_uid,
                sop_class_uid=header.sop_class_uid,
                transfer_syntax_uid=header.transfer_syntax_uid,
                file=one.file,
                file_size=one.size,
                sha256=one.sha256,
                **header.instance,
            )
        )
    Instance.objects.bulk_create(instances, ignore_conflicts=True)
    held = {
        row.sop_instance_uid: row
        for row in Instance.objects.filter(project_id=project_id, sop_instance_uid__in=list(candidates))
        .select_related("series__study")
        .defer("header", "frame_table")
    }
    stored: list[Instance] = []
    for one in staged:
        if id(one) in decided:
            continue
        row = held[one.header.sop_instance_uid]
        if row.file == one.file:
            decided[id(one)] = Decision(State.STORED, row)
            stored.append(row)
        else:
            decided[id(one)] = _same_or_conflict(one, row)
    _count(list(studies.values()), list(series.values()), stored)
    return decided


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
        _create_studies(project_id, [headers[uid] for uid in missing])
        found = (
            Study.objects.select_for_update(of=("self",))
            .filter(project_id=project_id, study_instance_uid__in=missing)
            .select_related("patient")
            .order_by("study_instance_uid")
        )
        locked |= {study.study_instance_uid: study for study in found}
    return locked


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
        found = Series.objects.filter(study__in=by_pk, series_instance_uid__in=[uid for _, uid in wanted])
        return {(row.study_id, row.series_instance_uid): row for row in found}

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
                    **wanted[key].series,
                )
                for key in new
            ],
            ignore_conflicts=True,
        )
        rows = held()
    return rows


def _misplaced(header: Any, study: Study, series: Series, author: Author) -> Refused | None:
    """Why an object must not join this study or series, if so."""
    theirs, ours = study.patient.patient_id, header.patient["patient_id"]
    if not header.derived_object and theirs and ours and theirs != ours:
        return Refused(
            "patient_mismatch",
            f"Study {study.study_instance_uid} belongs to another patient of this project (PatientID differs).",
        )
    if series.origin != author.origin or (
        author.origin in (Origin.ANNOTATION, Origin.DRAFT)
        and series.created_by_id != (author.created_by and author.created_by.pk)
    ):
        return Refused(
            "series_mismatch",
            f"Series {series.series_instance_uid} holds objects of another kind or author "
            f"({series.get_origin_display()}); give this object a SeriesInstanceUID of its own.",
        )
    return None


def _count(studies: list[Study], series: list[Series], stored: list[Instance]) -> None:
    """Bring the numbers that the rows repeat up to date; rows that got nothing and are new go away again."""
    added: dict[int, int] = {}
    for row in stored:
        added[row.series_id] = added.get(row.series_id, 0) + 1
    started: dict[int, list[Series]] = {}
    empty = []
    for one in series:
        if one.pk in added:
            if one.number_of_instances == 0:
                started.setdefault(one.study_id, []).append(one)
            one.number_of_instances += added[one.pk]
            one.save(update_fields=["number_of_instances", "updated_at"])
        elif one.number_of_instances == 0:
            empty.append(one.pk)
    if empty:
        Series.objects.filter(pk__in=empty).delete()
    for study in studies:
        total = sum(added.get(one.pk, 0) for one in series if one.study_id == study.pk)
        if not total:
            if study.number_of_instances == 0:
                study.delete()  # its patient stays: another transaction may just be adding a study of it
            continue
        study.number_of_instances += total
        study.number_of_series += len(started.get(study.pk, []))
        for one in started.get(study.pk, []):
            for value, values in (
                (one.modality, study.modalities_in_study),
                (one.body_part_examined, study.body_parts_examined),
            ):
                if value and value not in values:
                    values.append(value)
        study.save(
            update_fields=[
                "number_of_instances",
                "number_of_series",
                "modalities_in_study",
                "body_parts_examined",
                "updated_at",
            ]
        )
