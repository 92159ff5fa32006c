"""Uploaded tables: kept until they are imported or discarded; the only writer of `TableImport`.

One way for clinical variables, the cases of a cohort and the classes of a reference standard: `preview` says what an
import would do and every problem by row, `finish` does it, all or nothing.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import transaction
from django.utils import timezone

from portal.accounts.models import Project, User
from studies.cohorts import services, suggestions, variables
from studies.cohorts.clinical import TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.cohorts.tables import MOST_PROBLEMS, Checked, Choices, identify, studies_of
from studies.ingest.staging import media
from studies.ingest.store import file_name
from studies.models import Study
from studies.tabular import reading, values
from studies.tabular.problems import Problem
from studies.tabular.reading import Table

FOLDER = "tables"
Purpose = TableImport.Purpose


@dataclass
class Preview:
    """What an import would do. `counts`: label → number, for people and programs; `done` after the import."""

    problems: list[Problem]
    counts: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)  # of variables or classes
    done: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            **self.counts,
            "names": self.names,
            "done": self.done,
            "problem_count": len(self.problems),
            "problems": [problem.as_json() for problem in self.problems[:MOST_PROBLEMS]],
        }


def keep(
    data: bytes,
    *,
    project: Project,
    purpose: str,
    name: str,
    by: User | None,
    cohort: Cohort | None = None,
    reading_as: dict[str, str] | None = None,
) -> TableImport:
    """Store an uploaded file with what its columns seem to be. Raises `TableError` where it is no table, and
    `CohortError` (`cohort`) where the purpose needs a cohort."""
    purpose = Purpose(purpose)
    if purpose != Purpose.VARIABLES and cohort is None:
        raise CohortError("cohort", "No cohort was chosen.", "Choose the cohort that the table is about.")
    table = reading.read(data, **(reading_as or {}))
    choices = suggestions.suggest(table, label=purpose != Purpose.VARIABLES)
    file = f"{FOLDER}/{uuid.uuid4().hex}"
    path = media(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as stream:
        os.chmod(path, 0o600)
        stream.write(data)
    return TableImport.objects.create(
        project=project,
        purpose=purpose,
        cohort=cohort,
        name=file_name(name),
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        choices={"reading": reading_as or {}, **as_json(choices)},
        created_by=by,
    )


def as_json(choices: Choices) -> dict[str, Any]:
    """Choices as they are stored."""
    return asdict(choices)


def load(record: TableImport, reading_as: dict[str, str] | None = None) -> Table:
    """The table again. Raises `TableError`, and `CohortError` (`gone`) after it was imported or discarded."""
    if record.state != TableImport.State.OPEN:
        raise CohortError("gone", "The table was imported or discarded already.", "Upload it again.")
    try:
        data = media(record.file).read_bytes()
    except OSError as error:
        raise CohortError("gone", "The uploaded file is gone.", "Upload it again.") from error
    chosen = record.choices.get("reading", {}) if reading_as is None else reading_as
    return reading.read(data, **{key: value for key, value in chosen.items() if value})


@transaction.atomic
def choose(record: TableImport, choices: Choices, reading_as: dict[str, str], extra: dict[str, Any]) -> TableImport:
    """Keep what the user says about the table. `extra`: name and source of a reference standard."""
    record = TableImport.objects.select_for_update().get(pk=record.pk)
    if record.state != TableImport.State.OPEN:
        raise CohortError("gone", "The table was imported or discarded already.", "Upload it again.")
    record.choices = {**record.choices, **extra, "reading": reading_as, **as_json(choices)}
    record.save(update_fields=["choices"])
    return record


def preview(record: TableImport) -> Preview:
    """What `finish` would do now; nothing is written. Raises `TableError` and `CohortError`."""
    return _run(record, None, write=False)


def finish(record: TableImport, *, by: User | None) -> Preview:
    """Import the table, all of it or nothing. Raises `TableError` and `CohortError` (`problems` among others)."""
    with transaction.atomic():
        record = TableImport.objects.select_for_update().get(pk=record.pk)
        made = _run(record, by, write=True)
        made.done = True
        file = _end(record, TableImport.State.DONE, made.as_json())
    media(file).unlink(missing_ok=True)
    return made


def discard(record: TableImport) -> None:
    """Forget the file."""
    with transaction.atomic():
        record = TableImport.objects.select_for_update().get(pk=record.pk)
        if record.state != TableImport.State.OPEN:
            return
        file = _end(record, TableImport.State.DISCARDED, {})
    media(file).unlink(missing_ok=True)


def _end(record: TableImport, state: TableImport.State, result: dict[str, Any]) -> str:
    file = record.file
    record.state, record.result, record.file, record.finished_at = state, result, "", timezone.now()
    record.save(update_fields=["state", "result", "file", "finished_at"])
    return file


def _run(record: TableImport, by: User | None, *, write: bool) -> Preview:
    table, choices = load(record), Choices.of(record.choices)
    if record.purpose == Purpose.VARIABLES:
        if write:
            planned = variables.commit(table, choices, record.project, record=record, by=by, cohort=record.cohort)
        else:
            planned = variables.plan(table, choices, record.project, record.cohort)
        told = planned.as_json()
        keys = ("rows", "skipped", "patients", "new_patients", "new", "changed", "unchanged")
        return Preview(planned.problems, {key: told[key] for key in keys}, told["variables"])
    if record.cohort is None:
        raise CohortError("cohort", "The cohort of this table is gone.", "Upload it again for another cohort.")
    made = add_cases if record.purpose == Purpose.COHORT else add_reference
    return made(table, choices, record.cohort, by=by, write=write, extra=record.choices)


def add_cases(
    table: Table,
    choices: Choices,
    cohort: Cohort,
    *,
    by: User | None,
    write: bool,
    extra: dict[str, Any] | None = None,
) -> Preview:
    """Make cases of the studies that a table names, all or none. Raises `CohortError` (`problems`, `frozen`, …)."""
    # Pseudonyms are those of other cohorts, so any cohort's count here.
    checked = identify(table, choices, cohort.project)
    studies = studies_of(checked, choices)
    members = set(cohort.cases.values_list("study", flat=True))
    counts = {
        "rows": len(checked.rows),
        "skipped": checked.skipped,
        "new": sum(study.pk not in members for study in studies),
        "unchanged": sum(study.pk in members for study in studies),
    }
    if not studies and not checked.problems:
        checked.add("empty", "The table names no study.")
    if write:
        _refuse(checked)
        added = services.add_studies(cohort, studies)
        counts["without_image"] = len(added.without_image)
    elif cohort.frozen:
        checked.add("frozen", f"The cohort “{cohort.name}” is frozen; make a new one.")
    else:
        _name_without_image(checked, cohort, studies)
    return Preview(_sorted(checked), counts)


def _name_without_image(checked: Checked, cohort: Cohort, studies: list[Study]) -> None:
    missing = services.without_images([study for study in studies])
    if missing:
        checked.add(
            "no_image", f"{len(missing)} of the studies have no image series and cannot become cases: leave them out."
        )


def add_reference(
    table: Table,
    choices: Choices,
    cohort: Cohort,
    *,
    by: User | None,
    write: bool,
    extra: dict[str, Any] | None = None,
) -> Preview:
    """Classes of cases as the next version of a classification, all or none. `extra`: `name` and `source`."""
    labels = choices.of_kind("label")
    if not labels:
        raise CohortError("columns", "No column holds the class.", "Say which column it is.")
    checked = identify(table, choices, cohort.project, cohort)
    cases: dict[int, list[Case]] = {}
    for case in cohort.cases.select_related("study").order_by("name"):
        cases.setdefault(case.study_id, []).append(case)
    at = table.header.index(labels[0].name)
    classes: dict[int, tuple[Case, str, int]] = {}
    for row, found in checked.rows:
        cell = row.cells[at]
        if values.is_missing(cell):
            checked.add("no_class", "The row has no class.", row.number, labels[0].name)
            continue
        name = values.text_of(cell)
        if found.study is not None:
            of_row = cases.get(found.study.pk, [])
        else:
            of_row = [
                case for several in cases.values() for case in several if case.study.patient_id == found.patient.pk
            ]
        if not of_row:
            checked.add("not_a_case", "The study is no case of this cohort.", row.number)
        for case in of_row:
            before = classes.setdefault(case.pk, (case, name, row.number))
            if before[2] != row.number:
                word = "duplicate" if before[1] == name else "two_values"
                checked.add(word, f"Row {before[2]} gives the class of this case, too.", row.number, labels[0].name)
    names = sorted({name for _, name, _ in classes.values()})
    if len(names) < 2 and not checked.problems:
        checked.add("one_class", "All cases have the same class.", 0, labels[0].name)
    if len(names) > 100:
        checked.add("free_text", f"The column has {len(names)} different texts; this is no class.", 0, labels[0].name)
    said = extra or {}
    if write:
        _refuse(checked)
        services.create_reference(
            cohort,
            name=said.get("reference", "") or "Imported classes",
            source=said.get("source") or ReferenceStandard.Source.IMPORT,
            labels=[],
            classes=names,
            cases=[services.CaseTruth(case, values={"class": name}) for case, name, _ in classes.values()],
            by=by,
            detail={"format": "table", "rows": len(checked.rows)},
        )
    counts = {"rows": len(checked.rows), "skipped": checked.skipped, "new": len(classes)}
    return Preview(_sorted(checked), counts, names)


def _refuse(checked: Checked) -> None:
    n = len(checked.problems)
    if n:
        raise CohortError(
            "problems",
            f"The table has {n} problem{'' if n == 1 else 's'}; nothing was imported.",
            "Correct the rows that are named, and import the table again.",
        )


def _sorted(checked: Checked) -> list[Problem]:
    return sorted(checked.problems, key=lambda problem: (problem.row, problem.column, problem.code))
