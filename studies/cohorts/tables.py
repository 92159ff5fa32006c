"""A table on its way to rows: what its columns are, and everything that is wrong with it before anything is written."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from portal.accounts.models import Project
from studies.cohorts.errors import CohortError
from studies.cohorts.identification import KEYS, Directory, Found, Person, Unidentified, contradiction, sex_of
from studies.cohorts.models import Cohort
from studies.models import Patient, Study
from studies.tabular import values
from studies.tabular.problems import Problem
from studies.tabular.reading import Row, Table

MOST_PROBLEMS = 2000  # that are kept and shown
CHECKS = {"birth_date": "Birth date (check)", "sex": "Sex (check)", "person": "Patient's name (check)"}
KINDS = {
    "number": "Number",
    "category": "Category",
    "date": "Date",
    "survival": "Survival time",
    "event": "Event of the survival time",
    "source": "Category: source of the images",
    "group": "Category: copies of one image",
    "measured_at": "Date of measurement",
}
LABEL = {"label": "Class"}
IGNORE = "ignore"


@dataclass(frozen=True)
class Column:
    """What a column is. `name`: heading; `kind`: a key of KEYS, CHECKS, KINDS, LABEL or "ignore"."""

    name: str
    kind: str = IGNORE
    variable: str = ""
    unit: str = ""
    decimal: str = ""  # "." or ","; "" to detect
    dates: str = ""  # an order of DATE_ORDERS; "" to detect
    constant: bool = False  # one value for the patient, though rows repeat

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Column:
        known = {key: entry[key] for key in cls.__dataclass_fields__ if key in entry}
        return cls(**known)


@dataclass
class Choices:
    """How a table is to be understood.

    unknown: rows about patients that the project lacks are an error (`refuse`), left out (`skip`), or make a patient
    without images (`create`). accept: codes of problems that the user says are none.
    """

    columns: list[Column] = field(default_factory=list)
    fill_down: bool = False  # an empty identifier means the one above
    unknown: str = "refuse"
    replace: bool = False  # values that are there already may change
    all_studies: bool = False  # a patient stands for all of his studies
    accept: tuple[str, ...] = ()

    def of_kind(self, *kinds: str) -> list[Column]:
        return [column for column in self.columns if column.kind in kinds]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Choices:
        known = {
            key: stored[key] for key in cls.__dataclass_fields__ if key in stored and key not in ("columns", "accept")
        }
        return cls(
            columns=[Column.of(entry) for entry in stored.get("columns", [])],
            accept=tuple(stored.get("accept", ())),
            **known,
        )


@dataclass
class Checked:
    """What a table came to. `rows`: the sound ones with whom they are about."""

    problems: list[Problem] = field(default_factory=list)
    rows: list[tuple[Row, Found]] = field(default_factory=list)
    skipped: int = 0
    new_patients: list[str] = field(default_factory=list)

    def add(self, code: str, cause: str, row: int = 0, column: str = "") -> None:
        self.problems.append(Problem(code, cause, row, column))


def named_rows(table: Table, choices: Choices) -> Iterator[tuple[Row, dict[str, str]]]:
    """Each row with its identifiers."""
    keys = [(column.kind, table.header.index(column.name)) for column in choices.of_kind(*KEYS)]
    above: dict[str, str] = {}
    for row in table.rows:
        named = {}
        for kind, at in keys:
            cell = row.cells[at]
            text = "" if values.is_missing(cell) else values.text_of(cell)
            if not text and choices.fill_down:
                text = above.get(kind, "")
            named[kind] = above[kind] = text
        yield row, named


def identify(table: Table, choices: Choices, project: Project, cohort: Cohort | None = None) -> Checked:
    """Whom each row is about, with every problem of the identifiers. Raises `CohortError` (`columns`)."""
    checked = Checked(list(table.problems))
    names = [column.name for column in choices.columns]
    unknown = [name for name in names if name not in table.header]
    if unknown:
        raise CohortError("columns", f"The table has no column “{unknown[0]}”.", "Read its header again.")
    if not choices.of_kind(*KEYS):
        raise CohortError(
            "columns",
            "No column says whom the rows are about.",
            f"Choose one for {', '.join(KEYS.values())}.",
        )
    for kind in (*KEYS, *CHECKS, "measured_at", "label"):
        several = choices.of_kind(kind)
        if len(several) > 1:
            raise CohortError(
                "columns", f"Two columns are said to be the same: {several[0].name} and {several[1].name}."
            )
    rows = list(named_rows(table, choices))
    directory = Directory(project, (named for _, named in rows), cohort)
    column_of = {column.kind: column.name for column in choices.of_kind(*KEYS)}
    persons = _persons(table, choices, checked)
    said: dict[str, tuple[Person, int]] = {}
    created: dict[str, Patient] = {}
    unknown_ones = 0
    for row, named in rows:
        identity = named.get("patient_id") or next(iter(named.values()), "")
        person = persons.get(row.number, Person())
        try:
            found = directory.find(named)
        except Unidentified as problem:
            text = named.get(problem.key, "")
            if problem.code.startswith("unknown_") and choices.unknown == "skip":
                checked.skipped += 1
                continue
            if problem.code == "unknown_patient_id" and choices.unknown == "create":
                if text not in created:
                    created[text] = Patient(project=project, patient_id=text[:64])
                    checked.new_patients.append(text)
                if len(text) > 64:
                    checked.add(
                        "patient_id", "The ID is longer than 64 characters.", row.number, column_of["patient_id"]
                    )
                found = Found(created[text])
            else:
                unknown_ones += problem.code == "unknown_patient_id"
                hint = _alike(project, text) if problem.code == "unknown_patient_id" and unknown_ones < 20 else ""
                checked.add(problem.code, problem.cause + hint, row.number, column_of.get(problem.key, ""))
                continue
        differs = contradiction(found.patient, person)
        if differs and "two_persons" not in choices.accept:
            checked.add(
                "two_persons",
                f"The {differs} is not that of the patient in the archive.",
                row.number,
                _check_of(choices, differs),
            )
            continue
        before = said.setdefault(identity, (person, row.number))
        if (
            before[0] != person
            and "two_persons" not in choices.accept
            and any(a and b and a != b for a, b in zip(_facts(before[0]), _facts(person), strict=True))
        ):
            checked.add(
                "two_persons",
                f"Row {before[1]} says something else of this patient: two patients have one ID, or a row is mixed up.",
                row.number,
                column_of.get("patient_id", ""),
            )
            continue
        checked.rows.append((row, found))
    _one_person_two_ids(checked, choices, said, column_of)
    return checked


def _facts(person: Person) -> tuple[Any, ...]:
    return (person.born, person.sex, person.name)


def _check_of(choices: Choices, what: str) -> str:
    kind = {"birth date": "birth_date", "sex": "sex"}[what]
    return next((column.name for column in choices.of_kind(kind)), "")


def _alike(project: Project, text: str) -> str:
    """What a misspelt ID may have been: spreadsheets drop leading zeros, people mix case."""
    if not text or len(text) > 64:
        return ""
    near = Patient.objects.filter(project=project, patient_id__iregex=rf"^0*{re.escape(text.lstrip('0'))}\s*$")
    found = near.values_list("patient_id", flat=True).first()
    return f" There is “{found}”: were zeros lost, or is it another spelling?" if found else ""


def _persons(table: Table, choices: Choices, checked: Checked) -> dict[int, Person]:
    """Row number → what the row says of the person."""
    columns = {column.kind: column for column in choices.of_kind(*CHECKS)}
    if not columns:
        return {}
    at = {kind: table.header.index(column.name) for kind, column in columns.items()}
    order = ""
    if "birth_date" in columns:
        order = conventions(table, columns["birth_date"], checked, number=False)
    persons = {}
    for row in table.rows:
        born = None
        if "birth_date" in at and order and not values.is_missing(row.cells[at["birth_date"]]):
            try:
                born = values.moment(row.cells[at["birth_date"]], order).date()
            except values.Unreadable as problem:
                checked.add(problem.code, problem.cause, row.number, columns["birth_date"].name)
        sex = sex_of(values.text_of(row.cells[at["sex"]])) if "sex" in at else ""
        name = values.text_of(row.cells[at["person"]]) if "person" in at else ""
        persons[row.number] = Person(born, sex, " ".join(name.casefold().replace("^", " ").replace(",", " ").split()))
    return persons


def conventions(table: Table, column: Column, checked: Checked, *, number: bool, commas_elsewhere: bool = False) -> str:
    """How the column writes its numbers or dates; "" and a problem where that cannot be told."""
    cells = table.column(column.name)
    if number:
        found = values.decimal_mark(cells, column.decimal, commas_elsewhere=commas_elsewhere)
        code, what = "ambiguous_decimal", "every number could have a decimal comma or thousands: say which"
    else:
        found = values.date_order(cells, column.dates)
        code, what = "ambiguous_dates", "every date could be day first or month first: say which"
    if found.ambiguous:
        example = next(
            (row for row in table.rows if isinstance(row.cells[table.header.index(column.name)], str)), table.rows[0]
        )
        checked.add(code, f"In this column {what}.", example.number, column.name)
        return ""
    if found.mixed and not number:
        checked.add("mixed_dates", "Some dates are written day first and some month first.", 0, column.name)
    if found.mixed and number:
        checked.add("mixed_decimal", "Some numbers have a decimal comma and some a decimal dot.", 0, column.name)
    return found.mark


def _one_person_two_ids(
    checked: Checked, choices: Choices, said: Mapping[str, tuple[Person, int]], column_of: Mapping[str, str]
) -> None:
    """IDs that differ in spelling only, and different IDs of persons with one name and birth date."""
    if "same_person" in choices.accept:
        return
    spelt: dict[str, tuple[str, int]] = {}
    persons: dict[tuple[str, Any], tuple[str, int]] = {}
    column = column_of.get("patient_id", next(iter(column_of.values()), ""))
    of_patient = {found.patient.patient_id: found.patient for _, found in checked.rows}
    for identity, (person, row) in said.items():
        plain = re.sub(r"\s", "", identity).casefold().lstrip("0")
        if plain in spelt and spelt[plain][0] != identity:
            checked.add(
                "same_person",
                f"The ID differs from that of row {spelt[plain][1]} in spelling only: one patient may have two IDs.",
                row,
                column,
            )
            continue
        spelt[plain] = (identity, row)
        patient = of_patient.get(identity)
        stored = " ".join(patient.patient_name.split("=")[0].replace("^", " ").casefold().split()) if patient else ""
        name, born = person.name or stored, person.born or (patient.patient_birth_date if patient else None)
        if not name or not born:
            continue
        if (name, born) in persons:
            checked.add(
                "same_person",
                f"Name and birth date are those of row {persons[name, born][1]}, the ID is another: one patient may"
                " have two IDs.",
                row,
                column,
            )
        persons.setdefault((name, born), (identity, row))


def studies_of(checked: Checked, choices: Choices) -> list[Study]:
    """The study that each row is about, each once; problems where a patient has several or a row repeats another."""
    several: dict[int, list[Study]] = defaultdict(list)
    patients = {found.patient.pk for _, found in checked.rows if found.study is None}
    for study in Study.objects.filter(patient__in=patients).select_related("patient").order_by("pk"):
        several[study.patient_id].append(study)
    wanted: dict[int, Study] = {}
    first: dict[int, int] = {}
    for row, found in checked.rows:
        studies = [found.study] if found.study else several[found.patient.pk]
        if not studies:
            checked.add("no_study", "The patient has no images.", row.number)
        elif len(studies) > 1 and not choices.all_studies:
            checked.add(
                "ambiguous_patient_id",
                f"The patient has {len(studies)} studies: name the study, or take all studies of a patient.",
                row.number,
            )
        elif all(study.pk in wanted for study in studies):
            checked.add("duplicate", f"Row {first[studies[0].pk]} names the same study.", row.number)
        else:
            for study in studies:
                wanted.setdefault(study.pk, study)
                first.setdefault(study.pk, row.number)
    return list(wanted.values())
