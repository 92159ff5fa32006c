"""Attributes that rows repeat, and how query keys narrow rows down by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.db.models.lookups import IsNull

from studies.dicomweb.matching import Key, Query, as_q
from studies.dicomweb.scope import Scope
from studies.models import Series

# Tag → column from the study; "date" and "array" say how it is matched.
STUDY = {
    0x0020000D: ("study_instance_uid", ""),
    0x00080020: ("study_date", "date"),
    0x00080030: ("study_time", ""),
    0x00080050: ("accession_number", ""),
    0x00080061: ("modalities_in_study", "array"),
    0x00080090: ("referring_physician_name", ""),
    0x00081030: ("study_description", ""),
    0x00200010: ("study_id", ""),
    0x00100010: ("patient__patient_name", ""),
    0x00100020: ("patient__patient_id", ""),
    0x00100030: ("patient__patient_birth_date", "date"),
    0x00100040: ("patient__patient_sex", ""),
}
SERIES = {
    0x0020000E: ("series_instance_uid", ""),
    0x00080060: ("modality", ""),
    0x00200011: ("series_number", ""),
    0x0008103E: ("series_description", ""),
    0x00080021: ("series_date", "date"),
    0x00080031: ("series_time", ""),
    0x00180015: ("body_part_examined", ""),
    0x00200060: ("laterality", ""),
    0x00080070: ("manufacturer", ""),
    0x00081090: ("manufacturer_model_name", ""),
    0x00200052: ("frame_of_reference_uid", ""),
}
INSTANCE = {
    0x00080018: ("sop_instance_uid", ""),
    0x00080016: ("sop_class_uid", ""),
    0x00200013: ("instance_number", ""),
    0x00280010: ("rows", ""),
    0x00280011: ("columns", ""),
    0x00280008: ("number_of_frames", ""),
}
MODALITY = 0x00080060
STUDY_KEYS = STUDY | {MODALITY: ("modalities_in_study", "array")}  # not of this level, but viewers ask for it there
Columns = list[tuple[dict[int, tuple[str, str]], str]]  # tables with the path to each
# Attributes that a pseudonymising root may change, so they are matched on what it shows, not on what is stored.
_UNCHANGED = frozenset({0x0020000D, 0x0020000E, 0x00080018, 0x00080016, 0x00080060, 0x00080061})


class Condition(NamedTuple):
    """What a row must fulfil. `of_series`: what one of the visible series of its study must; the array in the study's
    row repeats every series, also those that somebody may not see."""

    of_row: Q
    of_series: Q | None = None
    study: str = "pk"


def conditions(query: Query, scope: Scope, columns: Columns) -> Iterator[Condition]:
    """The conditions of the keys that `columns` hold. Raises `Problem` 400."""
    for key in query.keys:
        for table, prefix in columns:
            if key.path[0] in table and len(key.path) == 1 and not _late(key, scope):
                column, how = table[key.path[0]]
                of_row = as_q(key, prefix + column, fuzzy=query.fuzzy, is_date=how == "date", is_array=how == "array")
                if how == "array":
                    yield Condition(of_row, as_q(key, "modality"), f"{prefix}pk")
                else:
                    yield Condition(of_row)
                break


def narrowed(rows: QuerySet[Any], series: QuerySet[Series], condition: Condition) -> QuerySet[Any]:
    """`rows` that fulfil the condition; `series` are those that are visible."""
    rows = rows.filter(condition.of_row)
    if condition.of_series is not None:
        shown = series.filter(condition.of_series, study=OuterRef(condition.study)).order_by().values("pk")[:1]
        # Not EXISTS: the database would look for all such series of the archive at first, this it asks for a candidate.
        rows = rows.filter(IsNull(Subquery(shown), False))
    return rows


def narrow(rows: QuerySet[Any], query: Query, scope: Scope, columns: Columns) -> QuerySet[Any]:
    """The rows that match the keys which `columns` hold. Raises `Problem` 400."""
    for condition in conditions(query, scope, columns):
        rows = narrowed(rows, scope.series, condition)
    return rows


def _late(key: Key, scope: Scope) -> bool:
    return scope.rewrite is not None and key.path[0] not in _UNCHANGED


def late_keys(query: Query, scope: Scope, columns: dict[int, Any]) -> list[Key]:
    """Keys that the database does not match."""
    return [key for key in query.keys if len(key.path) > 1 or key.path[0] not in columns or _late(key, scope)]
