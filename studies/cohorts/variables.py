"""Clinical values from a table: a dry run that names every problem, and a commit of all or nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from django.db import transaction

from portal.accounts.models import Project, User
from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.identification import Found
from studies.cohorts.models import Cohort
from studies.cohorts.tables import Checked, Choices, Column, conventions, identify
from studies.models import Patient
from studies.tabular import values
from studies.tabular.reading import Cell, Row, Table

KINDS = ("number", "category", "date", "survival", "source", "group")
ROLES = ("source", "group")  # categories that a split looks at
MOST_CATEGORIES = 200  # of one variable; more are free text, which names people


@dataclass(frozen=True)
class Content:
    """What a value says; as `ClinicalValue` has it."""

    number: float | None = None
    text: str = ""
    date: date | None = None
    event: bool | None = None

    @classmethod
    def of(cls, stored: ClinicalValue) -> Content:
        return cls(stored.number, stored.text, stored.date, stored.event)


# Name of the variable, patient (key, or ID where the patient is new), study or None, moment or None
Key = tuple[str, int | str, int | None, datetime | None]


@dataclass
class Plan:
    """What an import would write. `unchanged`: values that are there already and say the same."""

    checked: Checked
    variables: dict[str, Column] = field(default_factory=dict)
    new: dict[Key, Content] = field(default_factory=dict)
    changed: dict[Key, Content] = field(default_factory=dict)
    unchanged: int = 0
    new_variables: list[str] = field(default_factory=list)

    @property
    def problems(self):
        return self.checked.problems

    def as_json(self) -> dict[str, Any]:
        """For pages and programs: counts and problems."""
        patients = {key[1] for key in [*self.new, *self.changed]}
        return {
            "rows": len(self.checked.rows),
            "skipped": self.checked.skipped,
            "patients": len(patients),
            "new_patients": len(self.checked.new_patients),
            "variables": sorted(self.variables),
            "new_variables": sorted(self.new_variables),
            "values": len(self.new) + len(self.changed),
            "new": len(self.new),
            "changed": len(self.changed),
            "unchanged": self.unchanged,
            "problems": [problem.as_json() for problem in self.problems],
        }


def plan(table: Table, choices: Choices, project: Project, cohort: Cohort | None = None) -> Plan:
    """Read the whole table; nothing is written. Raises `CohortError` (`columns`) where the choices make no sense."""
    columns = [column for column in choices.of_kind(*KINDS)]
    if not columns:
        raise CohortError("columns", "No column holds a value.", "Say of at least one column what it is.")
    names = [_name(column) for column in columns]
    if len(set(names)) < len(names) or not all(names):
        raise CohortError("columns", "Two columns would become the same variable.", "Give each another name.")
    too_long = next((name for name in names if len(name) > 120), None)
    if too_long:
        raise CohortError("columns", "A variable's name has more than 120 characters.", "Give it a shorter name.")
    made = Plan(identify(table, choices, project, cohort), dict(zip(names, columns, strict=True)))
    known = {variable.name: variable for variable in ClinicalVariable.objects.filter(project=project, name__in=names)}
    _check_variables(made, known)
    moments = _moments(table, choices, made.checked)
    found: dict[Key, tuple[Content, int]] = {}
    for name, column in made.variables.items():
        for row, who, content in _contents(table, choices, column, made.checked):
            at = None if column.constant else moments.get(row.number)
            if moments and not column.constant and at is None:
                continue  # named as a problem where the date was read
            key = (name, who.patient.pk or who.patient.patient_id, who.study.pk if who.study else None, at)
            before = found.get(key)
            if before is None:
                found[key] = (content, row.number)
            elif before[0] != content:
                cause = f"Row {before[1]} gives another value for the same patient"
                cause += " and moment." if at else "; choose a date of measurement, or correct one of them."
                made.checked.add("two_values", cause, row.number, column.name)
    _compare(made, found, known, choices)
    made.problems.sort(key=lambda problem: (problem.row, problem.column, problem.code))
    return made


def commit(
    table: Table,
    choices: Choices,
    project: Project,
    *,
    record: TableImport,
    by: User | None,
    cohort: Cohort | None = None,
) -> Plan:
    """Write everything that the table holds, or nothing. Raises `CohortError` (`problems`, `columns`)."""
    with transaction.atomic():
        Project.objects.select_for_update().get(pk=project.pk)  # one table of a project after the other
        made = plan(table, choices, project, cohort)
        if made.problems:
            n = len(made.problems)
            raise CohortError(
                "problems",
                f"The table has {n} problem{'' if n == 1 else 's'}; nothing was imported.",
                "Correct the rows that are named, and import the table again.",
            )
        patients = _patients(project, made.checked.new_patients)
        variables = _variables(made, project, by)
        stored = {}
        if made.changed:
            for one in ClinicalValue.objects.filter(variable__in=variables.values()):
                stored[(one.variable_id, one.patient_id, one.study_id, one.measured_at)] = one
        new: list[ClinicalValue] = []
        changed: list[ClinicalValue] = []
        for key, content in {**made.new, **made.changed}.items():
            name, who, study, at = key
            patient = patients[who] if isinstance(who, str) else who
            place = (variables[name].pk, patient, study, at)
            value: ClinicalValue | None = stored.get(place) if key in made.changed else None
            if value is None:
                value = ClinicalValue(variable=variables[name], patient_id=patient, study_id=study, measured_at=at)
                new.append(value)
            else:
                changed.append(value)
            value.number, value.text, value.date, value.event = (
                content.number,
                content.text,
                content.date,
                content.event,
            )
            value.table = record
        ClinicalValue.objects.bulk_create(new, batch_size=5000)
        ClinicalValue.objects.bulk_update(changed, ["number", "text", "date", "event", "table"], batch_size=1000)
    return made


def _kind(column: Column) -> str:
    """As what the values are stored."""
    return "category" if column.kind in ROLES else column.kind


def _name(column: Column) -> str:
    return (column.variable or column.name).strip()


def _check_variables(made: Plan, known: Mapping[str, ClinicalVariable]) -> None:
    for name, column in made.variables.items():
        variable = known.get(name)
        if variable is None:
            made.new_variables.append(name)
        elif variable.kind != _kind(column):
            made.checked.add(
                "other_kind",
                f"The variable “{name}” is there as {variable.get_kind_display().lower()}; give this one another name.",
                0,
                column.name,
            )
        elif variable.unit != column.unit:
            made.checked.add(
                "other_unit",
                f"The variable “{name}” is there in {variable.unit or 'no unit'}, the table says"
                f" {column.unit or 'none'}: convert the values, or give this one another name.",
                0,
                column.name,
            )


def _moments(table: Table, choices: Choices, checked: Checked) -> dict[int, datetime]:
    """Row number → when its values were measured; empty where no column says so."""
    columns = choices.of_kind("measured_at")
    if not columns:
        return {}
    (column,) = columns
    at = table.header.index(column.name)
    order = conventions(table, column, checked, number=False)
    measured = [table.header.index(c.name) for c in choices.of_kind(*KINDS) if not c.constant]
    moments: dict[int, datetime] = {}
    for row, _ in checked.rows if order else []:
        if not any(not values.is_missing(row.cells[n], number=True) for n in measured):
            continue  # nothing was measured
        if values.is_missing(row.cells[at]):
            checked.add("no_date", "The row has values and no date of measurement.", row.number, column.name)
            continue
        try:
            moments[row.number] = values.moment(row.cells[at], order)
        except values.Unreadable as problem:
            checked.add(problem.code, problem.cause, row.number, column.name)
    # Where no date can be read, values must not be taken for undated ones.
    return moments or {-1: datetime.min}


def _contents(table: Table, choices: Choices, column: Column, checked: Checked) -> list[tuple[Row, Found, Content]]:
    """The values of one column; each problem is named."""
    at = table.header.index(column.name)
    mark = ""
    if column.kind in ("number", "survival", "date"):
        numbers = column.kind != "date"
        commas = numbers and _commas_elsewhere(table, choices, column)
        mark = conventions(table, column, checked, number=numbers, commas_elsewhere=commas)
        if not mark:
            return []
    events = choices.of_kind("event") if column.kind == "survival" else []
    if column.kind == "survival" and len(events) != 1:
        checked.add(
            "no_event", "A survival time needs one column that says whether the event happened.", 0, column.name
        )
        return []
    made: list[tuple[Row, Found, Content]] = []
    names: set[str] = set()
    for row, found in checked.rows:
        cell = row.cells[at]
        if values.is_missing(cell, number=_kind(column) != "category"):
            continue
        try:
            if column.kind == "number":
                content = Content(number=values.number(cell, mark))
            elif column.kind == "date":
                content = Content(date=values.moment(cell, mark).date())
            elif _kind(column) == "category":
                content = _category(cell)
                names.add(content.text)
            else:
                content = _survival(cell, row.cells[table.header.index(events[0].name)], mark)
        except values.Unreadable as problem:
            checked.add(problem.code, problem.cause, row.number, column.name)
            continue
        made.append((row, found, content))
    if len(names) > MOST_CATEGORIES and column.kind not in ROLES:
        checked.add(
            "free_text",
            f"The column has {len(names)} different texts; a category has at most {MOST_CATEGORIES}.",
            0,
            column.name,
        )
    return made


def _category(cell: Cell) -> Content:
    text = values.text_of(cell)
    if len(text) > 200:
        raise values.Unreadable("free_text", "The text has more than 200 characters; this is no category.")
    return Content(text=text)


def _survival(cell: Cell, event: Cell, mark: str) -> Content:
    length = values.number(cell, mark)
    if length < 0:
        raise values.Unreadable("negative_time", "The survival time is negative.")
    if values.is_missing(event):
        raise values.Unreadable("no_event", "The row has a survival time and does not say whether the event happened.")
    return Content(number=length, event=values.event(event))


def _commas_elsewhere(table: Table, choices: Choices, column: Column) -> bool:
    """Whether another column of numbers can only be read with decimal commas."""
    others = [other for other in choices.of_kind("number", "survival") if other.name != column.name]
    return any(values.decimal_mark(table.column(other.name)).mark == "," for other in others)


def _compare(
    made: Plan, found: Mapping[Key, tuple[Content, int]], known: Mapping[str, ClinicalVariable], choices: Choices
) -> None:
    """Sort the values into new, changed and unchanged ones; a change that was not asked for is a problem."""
    stored: dict[Key, Content] = {}
    for name, variable in known.items():
        if name in made.variables:
            for value in variable.values.all():
                stored[(name, value.patient_id, value.study_id, value.measured_at)] = Content.of(value)
    by_variable: dict[str, int] = defaultdict(int)
    for key, (content, row) in found.items():
        before = stored.get(key)
        if before is None:
            made.new[key] = content
        elif before == content:
            made.unchanged += 1
        elif choices.replace:
            made.changed[key] = content
        else:
            by_variable[key[0]] += 1
            made.checked.add(
                "differs",
                "Another value is stored for this patient and moment; choose to replace stored values, or correct it.",
                row,
                made.variables[key[0]].name,
            )


def _patients(project: Project, identifiers: list[str]) -> dict[str, int]:
    """New patients, without images so far: PatientID → key."""
    Patient.objects.bulk_create(
        [Patient(project=project, patient_id=text) for text in identifiers], ignore_conflicts=True, batch_size=5000
    )
    rows = Patient.objects.filter(project=project, patient_id__in=identifiers, issuer_of_patient_id="")
    return dict(rows.values_list("patient_id", "pk"))


def _variables(made: Plan, project: Project, by: User | None) -> dict[str, ClinicalVariable]:
    for name in made.new_variables:
        column = made.variables[name]
        ClinicalVariable.objects.create(
            project=project, name=name, kind=_kind(column), unit=column.unit[:32], created_by=by
        )
    for role in ROLES:
        names = [name for name, column in made.variables.items() if column.kind == role]
        ClinicalVariable.objects.filter(project=project, name__in=names).update(role=role)
    return {
        variable.name: variable
        for variable in ClinicalVariable.objects.filter(project=project, name__in=made.variables)
    }


@transaction.atomic
def keep_categories(
    project: Project,
    name: str,
    texts: Mapping[int, str],
    patients: Mapping[int, int],
    *,
    role: str = "",
    record: TableImport | None = None,
    by: User | None = None,
) -> bool:
    """Study → text as a categorical variable of the studies; what is stored already gives way to what is new.

    patients: study → patient. Whether anything was written. Raises `CohortError` (`other_kind`).
    """
    variable, made = ClinicalVariable.objects.get_or_create(
        project=project,
        name=name,
        defaults={"kind": ClinicalVariable.Kind.CATEGORY, "role": role, "created_by": by},
    )
    if variable.kind != ClinicalVariable.Kind.CATEGORY:
        raise CohortError(
            "other_kind",
            f"The variable “{name}” is there as {variable.get_kind_display().lower()}.",
            "Rename the column.",
        )
    if role and variable.role != role:
        variable.role = role
        variable.save(update_fields=["role"])
    stored = {value.study_id: value for value in variable.values.filter(study__in=texts, measured_at__isnull=True)}
    new = [pk for pk in texts if pk not in stored]
    changed = [pk for pk in texts if pk in stored and stored[pk].text != texts[pk]]
    if not new and not changed:
        return made
    if record is not None and record.pk is None:
        record.save()
    ClinicalValue.objects.bulk_create(
        [
            ClinicalValue(variable=variable, patient_id=patients[pk], study_id=pk, text=texts[pk], table=record)
            for pk in new
        ],
        batch_size=5000,
    )
    for pk in changed:
        stored[pk].text, stored[pk].table = texts[pk], record
    ClinicalValue.objects.bulk_update([stored[pk] for pk in changed], ["text", "table"], batch_size=1000)
    return True
