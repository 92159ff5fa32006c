"""Pictures (JPEG, PNG) with a table of labels into the archive: one study for each, a cohort and its classification.

Identifiers derive from project, patient, file name and content, so importing the same files again adds nothing.
Whatever is wrong with a row or its file is named, and the other rows go on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studies.cohorts import services as cohorts
from studies.cohorts import variables
from studies.cohorts.clinical import TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.dicom import picture
from studies.dicom.errors import PixelError
from studies.ingest import limits, store
from studies.ingest.image_labels import Entry, Plan, Skip, columns_of, entry_of, of_radiographs
from studies.ingest.outcome import Refused
from studies.models import ImportBatch, Instance, Study
from studies.tabular import reading, values
from studies.tabular.problems import TableError
from studies.tabular.reading import Row, Table

PROVENANCE = "Imported from pictures"


@dataclass(frozen=True)
class RefusedRow:
    row: int
    file: str
    code: str
    reason: str


@dataclass
class Summary:
    """What became of the rows. `problem` says why the cohort could not be frozen, where it could not."""

    project: str
    rows: int = 0
    stored: int = 0
    duplicate: int = 0
    refused: list[RefusedRow] = field(default_factory=list)
    batch: int | None = None
    cohort: int | None = None
    frozen: bool = False
    reference: int | None = None
    reference_version: int | None = None
    cases: int = 0
    patients: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)
    encoding: str = ""
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def import_images(
    plan: Plan,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Import every row that is sound; the others are refused one by one, with row, file and reason.

    Raises `TableError` or `CohortError` where nothing can be imported at all: no table, no column of files, no name for
    the cohort. `progress` may raise to stop.
    """
    table = _table(plan)
    at = columns_of(table, plan)
    radiographs = of_radiographs(table, at)
    cohort = plan.project.cohorts.filter(name=plan.cohort.strip()).first()
    members = None
    if cohort is not None and cohort.frozen:
        members = set(cohort.cases.values_list("study__study_instance_uid", flat=True))
    batch = store.open_batch(plan.project, plan.source, plan.by)
    summary = Summary(plan.project.slug, rows=len(table.rows), batch=batch.pk, encoding=table.encoding)
    for problem in table.problems:
        if problem.row > 1:
            _refuse(summary, batch, RefusedRow(problem.row, "", problem.code, problem.cause))
    broken = {problem.row for problem in table.problems}
    folder = (plan.folder or plan.labels.parent).resolve()
    done: dict[str, Entry] = {}
    rows = [row for row in table.rows if row.number not in broken]
    for start in range(0, len(rows), limits.GROUP_FILES):
        made: list[tuple[Entry, bytes]] = []
        for number, row in enumerate(rows[start : start + limits.GROUP_FILES], start=start):
            progress(number, len(rows))
            cells = {name: row.cells[place] for name, place in at.items()}
            said = {name: values.text_of(cell) for name, cell in cells.items() if not values.is_missing(cell)}
            try:
                entry, data = _object(plan, row, said, folder, radiographs, "patient" in at)
                _refuse_again(entry, done, made)
                if members is not None and entry.identity.study_instance_uid not in members:
                    raise Skip(
                        "cohort_frozen",
                        f"The cohort “{plan.cohort}” is frozen and does not hold this picture; import it into another.",
                    )
                made.append((entry, data))
            except Skip as skip:
                _refuse(summary, batch, RefusedRow(row.number, said.get("file", ""), skip.code, skip.reason))
        _store(plan, batch, made, done, summary)
    progress(len(rows), len(rows))
    if done:
        if cohort is None:
            cohort = cohorts.create(project=plan.project, name=plan.cohort, by=plan.by, description=PROVENANCE + ".")
        _curate(plan, cohort, table, at, done, summary)
    return summary


def _table(plan: Plan) -> Table:
    try:
        data = plan.labels.read_bytes()
    except OSError as error:
        raise TableError("unreadable", f"The table cannot be read: {error.strerror}.") from error
    return reading.read(data, encoding=plan.encoding)


def _object(
    plan: Plan, row: Row, said: Mapping[str, str], folder: Path, radiographs: bool, with_patients: bool
) -> tuple[Entry, bytes]:
    """The row with its picture as a DICOM file. Raises `Skip`."""
    data = _bytes(folder, said.get("file", ""))
    try:
        read = picture.read(data)
    except PixelError as error:
        raise Skip(error.code, f"{error.cause} {error.next_step}") from error
    entry = entry_of(plan, row, said, hashlib.sha256(data).hexdigest(), radiographs, with_patients)
    stream = io.BytesIO()
    picture.dataset(read, entry.identity, entry.about).save_as(stream, enforce_file_format=True)
    return entry, stream.getvalue()


def _refuse_again(entry: Entry, done: Mapping[str, Entry], made: Sequence[tuple[Entry, bytes]]) -> None:
    """One file is one case: raises `Skip` where an earlier row has it."""
    uid = entry.identity.study_instance_uid
    before = done.get(uid) or next((one for one, _ in made if one.identity.study_instance_uid == uid), None)
    if before is not None:
        raise Skip("same_file", f"Row {before.row.number} names the same file of the same patient.")


def _store(
    plan: Plan,
    batch: ImportBatch,
    made: Sequence[tuple[Entry, bytes]],
    done: dict[str, Entry],
    summary: Summary,
) -> None:
    """Store what the project lacks. What it has stays as it is, also where the table says something else now."""
    uids = {entry.identity.sop_instance_uid(0): entry for entry, _ in made}
    held = set(
        Instance.objects.filter(project=plan.project, sop_instance_uid__in=uids).values_list(
            "sop_instance_uid", flat=True
        )
    )
    missing = [(entry, data) for entry, data in made if entry.identity.sop_instance_uid(0) not in held]
    outcomes = store.store_files(
        ((data, entry.name) for entry, data in missing), batch=batch, created_by=plan.by, provenance=PROVENANCE
    )
    for (entry, _), outcome in zip(missing, outcomes, strict=True):
        if outcome.refused:
            summary.refused.append(RefusedRow(entry.row.number, entry.name, outcome.code, outcome.reason))
            continue
        done[entry.identity.study_instance_uid] = entry
        summary.stored += 1
    for uid in held:
        done[uids[uid].identity.study_instance_uid] = uids[uid]
    summary.duplicate += len(held)


def _bytes(folder: Path, name: str) -> bytes:
    """The bytes of a file below the folder of the table. Raises `Skip`."""
    if not name:
        raise Skip("no_file", "The row names no file.")
    path = (folder / name.replace("\\", "/")).resolve()
    if not path.is_relative_to(folder):
        raise Skip("unsafe_path", "The path leads outside the folder of the table.")
    if not path.is_file():
        raise Skip("not_found", "There is no such file beside the table.")
    if path.stat().st_size > picture.MAX_BYTES:
        raise Skip("too_large", f"The file is larger than {picture.MAX_BYTES >> 20} MB.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Skip("unreadable", f"The file cannot be read: {error.strerror}.") from error


def _refuse(summary: Summary, batch: ImportBatch, refused: RefusedRow) -> None:
    name = f"row {refused.row}: {Path(refused.file).name}"
    store.store_file(Refused(refused.code, refused.reason, keep=False), batch=batch, name=name)
    summary.refused.append(refused)


def _curate(
    plan: Plan,
    cohort: Cohort,
    table: Table,
    at: Mapping[str, int],
    done: Mapping[str, Entry],
    summary: Summary,
) -> None:
    """Cases, what is known of them, their classes and the split; what is there already stays."""
    summary.cohort = cohort.pk
    studies = {
        study.study_instance_uid: study
        for study in Study.objects.filter(project=plan.project, study_instance_uid__in=list(done)).select_related(
            "patient"
        )
    }
    if not cohort.frozen:
        cohorts.add_studies(cohort, [studies[uid] for uid in done])
    cases = {case.study.study_instance_uid: case for case in cohort.cases.select_related("study")}
    _keep_facts(plan, table, at, {studies[uid].pk: entry for uid, entry in done.items()}, studies, summary)
    labelled = {
        cases[uid].pk: (cases[uid], entry.said["label"]) for uid, entry in done.items() if entry.said.get("label")
    }
    reference = _reference(plan, cohort, labelled) if labelled else None
    if reference is not None:
        summary.reference, summary.reference_version = reference.pk, reference.version
        for label in reference.case_labels.values_list("values", flat=True):
            summary.classes[label["class"]] = summary.classes.get(label["class"], 0) + 1
    if plan.design is not None and not cohort.frozen:
        classes = reference if plan.design.get("stratify", True) else None
        design = {key: value for key, value in plan.design.items() if key != "stratify"}
        if design.get("leave_source_out") or design.get("stratify_source"):
            design.setdefault("source", table.header[at["source"]] if "source" in at else "")
        try:
            cohort = cohorts.freeze(cohort, by=plan.by, classes=classes, **design)
        except CohortError as error:
            summary.problem = f"The cohort could not be frozen. {error}"
    summary.frozen = cohort.frozen
    summary.cases, summary.patients = cohort.cases.count(), cohort.patients.count()
    for split, fold in cohort.cases.values_list("cohort_patient__split", "cohort_patient__fold"):
        side = split or "none" if fold is None else f"fold {fold}"
        summary.splits[side] = summary.splits.get(side, 0) + 1


def _keep_facts(
    plan: Plan,
    table: Table,
    at: Mapping[str, int],
    entries: Mapping[int, Entry],
    studies: Mapping[str, Study],
    summary: Summary,
) -> None:
    """Source, group and the columns that are nothing else, as categories of the studies."""
    taken = {place for name, place in at.items() if name not in ("group", "source")}
    roles = {at[name]: role for name, role in (("source", "source"), ("group", "group")) if name in at}
    patients = {study.pk: study.patient_id for study in studies.values()}
    record = TableImport(
        project=plan.project, purpose=TableImport.Purpose.VARIABLES, name=store.file_name(plan.labels.name),
        sha256=hashlib.sha256(plan.labels.read_bytes()).hexdigest(), state=TableImport.State.DONE, created_by=plan.by,
    )  # fmt: skip
    for place, heading in enumerate(table.header):
        if place in taken:
            continue
        found = {pk: values.text_of(entry.row.cells[place]) for pk, entry in entries.items()}
        found = {pk: text for pk, text in found.items() if text and not values.is_missing(text)}
        if not found or any(len(text) > 200 for text in found.values()):
            continue
        role = roles.get(place, "")
        if not role and len(set(found.values())) > variables.MOST_CATEGORIES:
            continue  # free text, which names people
        if variables.keep_categories(
            plan.project, heading[:120], found, patients, role=role, record=record, by=plan.by
        ):
            summary.variables.append(heading)


def _reference(plan: Plan, cohort: Cohort, labelled: Mapping[int, tuple[Case, str]]) -> ReferenceStandard | None:
    """The latest version where it says the same, else a next one that keeps the other cases' classes. None where there
    is one class only."""
    latest = cohort.reference_standards.filter(name=plan.reference).order_by("-version").first()
    wanted = dict(labelled)
    if latest is not None and latest.kind == ReferenceStandard.Kind.CLASSIFICATION:
        before = {
            label.case_id: (label.case, label.values["class"]) for label in latest.case_labels.select_related("case")
        }
        if all(pk in before and before[pk][1] == name for pk, (_, name) in wanted.items()):
            return latest
        for pk, told in before.items():
            wanted.setdefault(pk, told)
    classes = sorted({name for _, name in wanted.values()})
    if len(classes) < 2:
        return None
    return cohorts.create_reference(
        cohort,
        name=plan.reference,
        source=ReferenceStandard.Source.IMPORT,
        labels=[],
        classes=classes,
        cases=[cohorts.CaseTruth(case, values={"class": name}) for case, name in wanted.values()],
        by=plan.by,
        detail={"format": "pictures", "files": len(labelled)},
    )


def tables_in(folder: Path) -> Sequence[Path]:
    """The tables in a folder, the shallowest first: an archive holds one among its pictures."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in (".csv", ".tsv", ".xlsx") and path.is_file()]
    return sorted(found, key=lambda path: (len(path.parts), path.name))
