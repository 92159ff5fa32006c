"""What the columns of a table seem to be, by heading and content; the user has the last word."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from studies.cohorts.identification import KEYS, sex_of
from studies.cohorts.tables import CHECKS, IGNORE, Choices, Column, named_rows
from studies.tabular import values
from studies.tabular.reading import Cell, Table

# A column is what nearly all of its cells are, so that the others are named as problems.
MOST = 0.7
_UNITS = {
    *("a", "y", "yr", "yrs", "year", "years", "mo", "month", "months", "wk", "week", "weeks", "d", "day", "days"),
    *("h", "hour", "hours", "min", "s", "sec", "kg", "g", "mg", "ug", "ng", "m", "cm", "mm", "ml", "l", "dl"),
    *("mmhg", "kpa", "pa", "u", "iu", "miu", "mol", "mmol", "bpm", "hu", "gy", "mgy", "mbq", "suv", "kcal", "c", "f"),
}
_HEADINGS = {
    "patient_id": r"(pat(ient)?[\s_.-]*(id|no|nr|number)|pid|mrn|patient|subject([\s_.-]*id)?)",
    "study_instance_uid": r"(study[\s_.-]*(instance[\s_.-]*)?uid)",
    "accession_number": r"(accession([\s_.-]*(number|no|nr|id))?)",
    "case": r"(case([\s_.-]*(id|name))?|pseudonym)",
    "birth_date": r"((date[\s_.-]*of[\s_.-]*birth|birth[\s_.-]*date|dob|patient[\s_.-]*birth[\s_.-]*date))",
    "sex": r"((patient[\s_.-]*)?(sex|gender))",
    "person": r"((patient|full|last|family)[\s_.-]*name)",
    "measured_at": (
        r"((re|test|sample|lab|measurement|visit|collection)[\s_.-]*(date|time)|measured([\s_.-]*(at|on))?|date)"
    ),
    "label": r"(label|class|diagnosis|finding)",
    "event": r"(event|status|dead|death|censor(ed)?)",
}


def suggest(table: Table, *, label: bool = False) -> Choices:
    """The columns with what they seem to be; `label`: the table gives classes, not clinical values."""
    columns: list[Column] = []
    used: set[str] = set()
    kinds = [*KEYS, *CHECKS, *(["label"] if label else ["measured_at", "event"])]
    for name in table.header:
        column = Column(name)
        for kind in kinds:
            if kind not in used and re.fullmatch(_HEADINGS[kind], name.strip(), re.IGNORECASE):
                if kind == "measured_at" and not _dates(table.column(name)):
                    continue
                column = Column(name, kind)
                used.add(kind)
                break
        columns.append(column)
    if not used & set(KEYS):
        columns = [Column(c.name, "patient_id") if n == 0 else c for n, c in enumerate(columns)]
    if not label:
        columns = [_guess(table, column) for column in columns]
    if "event" in used and not any(column.kind == "survival" for column in columns):
        columns = [_guess(table, Column(c.name)) if c.kind == "event" else c for c in columns]
    identifiers = [column.name for column in columns if column.kind in KEYS]
    first = table.column(identifiers[0]) if identifiers else []
    gaps = sum(values.is_missing(cell) for cell in first)
    choices = Choices(columns, fill_down=len(identifiers) == 1 and first[0] is not None and gaps >= len(first) / 3)
    if any(column.kind == "measured_at" for column in columns):
        choices.columns = _constants(table, choices)
    return choices


def _guess(table: Table, column: Column) -> Column:
    if column.kind not in (IGNORE, "sex"):
        return column
    cells = [cell for cell in table.column(column.name) if not values.is_missing(cell, number=True)]
    if column.kind == "sex" and any(sex_of(values.text_of(cell)) for cell in cells):
        return column
    if not cells:
        return Column(column.name)
    if re.fullmatch(
        r"(survival|follow[\s_-]*up|os|pfs|dfs)([\s_-]*(time|days|months|years))?", column.name, re.IGNORECASE
    ):
        return Column(column.name, "survival", column.name)
    name, unit = unit_in(column.name)
    if sum(_is_number(cell) for cell in cells) >= MOST * len(cells):
        distinct = {values.text_of(cell) for cell in cells}
        if distinct <= {"0", "1"} or distinct <= {"1", "2"}:
            return Column(column.name, "category", name)
        return Column(column.name, "number", name, unit)
    if _dates(cells):
        return Column(column.name, "date", name)
    if len({values.text_of(cell) for cell in cells}) <= 100 and all(len(values.text_of(cell)) <= 200 for cell in cells):
        return Column(column.name, "category", name)
    return Column(column.name)


def unit_in(heading: str) -> tuple[str, str]:
    """Name and unit of a heading such as "CRP [mg/L]" or "Age (years)"; "(NT-proBNP)" is part of the name."""
    match = re.fullmatch(r"\s*(.+?)\s*([\[(])\s*([^\[\]()]{1,32}?)\s*[\])]\s*", heading)
    if match and (match[2] == "[" or re.search(r"[/%^°µμ*]", match[3]) or match[3].casefold() in _UNITS):
        return match[1], match[3]
    return heading.strip(), ""


def _is_number(cell: Cell) -> bool:
    for mark in (".", ","):
        try:
            values.number(cell, mark)
            return True
        except values.Unreadable:
            continue
    return False


def _dates(cells: Sequence[Cell]) -> bool:
    """Whether nearly every filled cell is a date, in one order or the other."""
    filled = [cell for cell in cells if not values.is_missing(cell, number=True)]
    if not filled or all(isinstance(cell, int | float) for cell in filled):
        return False
    return any(sum(_is_date(cell, order) for cell in filled) >= MOST * len(filled) for order in ("dmy", "mdy"))


def _is_date(cell: Cell, order: str) -> bool:
    try:
        values.moment(cell, order)
    except values.Unreadable:
        return False
    return True


def _constants(table: Table, choices: Choices) -> list[Column]:
    """Columns that say the same in every row of a patient, and something in most, belong to the patient."""
    key = choices.of_kind(*KEYS)[0].name
    at = {name: n for n, name in enumerate(table.header)}
    made = []
    rows = list(named_rows(table, choices))
    repeated = len({values.text_of(row.cells[at[key]]) for row, _ in rows}) < len(rows)
    for column in choices.columns:
        if column.kind in ("number", "category", "date", "survival") and repeated:
            seen: dict[str, set[str]] = defaultdict(set)
            filled = 0
            for row, named in rows:
                cell = row.cells[at[column.name]]
                if not values.is_missing(cell, number=True):
                    filled += 1
                    seen[next(iter(named.values()))].add(values.text_of(cell))
            constant = filled > 0.9 * len(rows) and all(len(found) == 1 for found in seen.values())
            column = Column(column.name, column.kind, column.variable, column.unit, constant=constant)
        made.append(column)
    return made
