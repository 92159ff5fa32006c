"""C-FIND over the same columns and the same matching as QIDO-RS (PS3.4 annex C)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from django.db.models import Count, QuerySet
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from studies.dicom.vr import vr_of
from studies.dicomweb import columns as held
from studies.dicomweb import qido, results, visible
from studies.dicomweb.matching import Key, Query, matches
from studies.dicomweb.scope import Scope
from studies.models import Instance, Patient

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
PATIENT = {
    0x00100010: ("patient_name", ""),
    0x00100020: ("patient_id", ""),
    0x00100021: ("issuer_of_patient_id", ""),
    0x00100030: ("patient_birth_date", "date"),
    0x00100040: ("patient_sex", ""),
}
CHUNK = 200
# About the query, not the object: character set, level, time zone, retrieve AE title.
_ABOUT = frozenset({0x00080005, 0x00080052, 0x00080201, 0x00080054})
_UNIQUE = {
    "PATIENT": ["00100020"],
    "STUDY": ["00100020", "0020000D"],
    "SERIES": ["0020000D", "0020000E"],
    "IMAGE": ["0020000D", "0020000E", "00080018"],
}
_RETRIEVE_ADDRESS = "00081190"


class BadIdentifier(Exception):
    """The identifier of a query does not fit its level; the text is for logs and holds no value."""


def level_of(identifier: Dataset) -> str:
    level = str(identifier.get("QueryRetrieveLevel", "") or "").strip().upper()
    if level not in LEVELS:
        raise BadIdentifier("QueryRetrieveLevel (0008,0052) is missing or unknown")
    return level


def keys_of(identifier: Dataset) -> tuple[list[Key], set[int]]:
    """What to match, and the tags to return."""
    keys: list[Key] = []
    wanted: set[int] = set()
    for element in identifier:
        tag = int(element.tag)
        if tag in _ABOUT or element.tag.is_private or element.tag.element == 0:
            continue
        wanted.add(tag)
        if element.VR == "SQ":
            for item in element.value or []:
                inner, _ = keys_of(item)
                keys += [Key((tag, *key.path), key.value) for key in inner]
            continue
        value = _text(element.value)
        if value.strip("*"):
            keys.append(Key((tag,), value))
    return keys, wanted


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(str(one).strip() for one in value)
    return str(value).strip()


def find(scope: Scope, identifier: Dataset) -> Iterator[Dataset]:
    """The answers to an identifier, read from the database in pieces. Raises BadIdentifier, and `Problem` where a value
    cannot be matched."""
    level = level_of(identifier)
    keys, wanted = keys_of(identifier)
    query = Query(tuple(keys), frozenset(wanted), False, None, 0, False)
    search: Callable[[Scope, Query], Iterator[dict[str, Any]]] = _SEARCH[level]
    for found in search(scope, query):
        yield _answer(found, wanted, level)


def _answer(found: dict[str, Any], wanted: set[int], level: str) -> Dataset:
    shown: dict[str, Any] = {}
    for tag in sorted({f"{tag:08X}" for tag in wanted} | set(_UNIQUE[level])):
        if tag in found and tag != _RETRIEVE_ADDRESS:
            shown[tag] = found[tag]
        else:
            vr = vr_of(int(tag, 16)).split(" ")[0]
            shown[tag] = {"vr": vr if vr != "UN" else "LO"}
    answer = Dataset.from_json(shown)
    answer.SpecificCharacterSet = "ISO_IR 192"
    answer.QueryRetrieveLevel = level
    return answer


def _pages(rows: QuerySet[Any]) -> Iterator[list[Any]]:
    """The rows in their order; which ones is settled at once, what they hold is read as it is sent."""
    pks = list(rows.values_list("pk", flat=True))
    model: Any = rows.model
    for start in range(0, len(pks), CHUNK):
        wanted = pks[start : start + CHUNK]
        held = rows.order_by().filter(pk__in=wanted) if model is not Patient else rows.filter(pk__in=wanted)
        by_pk = {row.pk: row for row in held}
        yield [by_pk[pk] for pk in wanted if pk in by_pk]


def _late_match(found: dict[str, Any], late: list[Key]) -> bool:
    return all(matches(found, key) for key in late)


def _patients(scope: Scope, query: Query) -> Iterator[dict[str, Any]]:
    rows: QuerySet[Any] = Patient.objects.filter(pk__in=scope.studies.values("patient"))
    rows = held.narrow(rows, query, scope, [(PATIENT, "")])
    if held.late_keys(query, scope, PATIENT):
        raise BadIdentifier("A key below the level PATIENT was to be matched")
    rows = rows.annotate(n_studies=Count("studies")).order_by("patient_id", "pk")
    for page in _pages(rows):
        for row in page:
            # A study without a PatientID stands for its patient; its UID is no issuer.
            issuer = row.issuer_of_patient_id if row.patient_id else ""
            yield {
                "00100010": results.name(row.patient_name),
                "00100020": results.text("LO", row.patient_id),
                "00100021": results.text("LO", issuer),
                "00100030": results.day(row.patient_birth_date),
                "00100040": results.text("CS", row.patient_sex),
                "00201200": results.number("IS", row.n_studies),
            }


def _studies(scope: Scope, query: Query) -> Iterator[dict[str, Any]]:
    late = held.late_keys(query, scope, held.STUDY)
    rows = held.narrow(scope.studies, query, scope, [(held.STUDY, "")])
    needs_header = bool(late) or not query.include <= held.STUDY.keys() | results.STUDY_TAGS
    for page in _pages(rows.select_related("patient").order_by(*visible.NEWEST_FIRST)):
        pks = [row.pk for row in page]
        counts = visible.study_counts(scope, set(pks))
        headers = qido.headers_of(pks, "series__study", scope) if needs_header else {}
        for row in page:
            found = results.with_fields(results.study(row, "", counts.get(row.pk)), headers.get(row.pk), query, late)
            if _late_match(found, late):
                yield found


def _series(scope: Scope, query: Query) -> Iterator[dict[str, Any]]:
    columns = held.SERIES | held.STUDY
    late = held.late_keys(query, scope, columns)
    rows = held.narrow(scope.series, query, scope, [(held.SERIES, ""), (held.STUDY, "study__")])
    needs_header = bool(late) or not query.include <= columns.keys() | results.SERIES_TAGS
    rows = rows.select_related("study__patient").order_by("-study__study_date", "study_id", "series_number", "pk")
    for page in _pages(rows):
        counts = visible.study_counts(scope, {row.study_id for row in page})
        headers = qido.headers_of([row.pk for row in page], "series") if needs_header else {}
        for row in page:
            found = results.series(row, "", counts.get(row.study_id))
            # Columns that the answers of QIDO-RS leave to the header.
            found["00200060"] = results.text("CS", row.laterality)
            found["00080070"] = results.text("LO", row.manufacturer)
            found["00081090"] = results.text("LO", row.manufacturer_model_name)
            found["00200052"] = results.text("UI", row.frame_of_reference_uid)
            found = results.with_fields(found, headers.get(row.pk), query, late)
            if _late_match(found, late):
                yield found


def _images(scope: Scope, query: Query) -> Iterator[dict[str, Any]]:
    columns = held.INSTANCE | held.SERIES | held.STUDY
    late = held.late_keys(query, scope, columns)
    rows = held.narrow(
        scope.instances,
        query,
        scope,
        [(held.INSTANCE, ""), (held.SERIES, "series__"), (held.STUDY, "series__study__")],
    )
    rows = rows.select_related("series__study__patient").defer("frame_table")
    rows = rows.order_by("series__series_number", "series_id", "instance_number", "pk")
    page: list[Instance]
    for page in _pages(rows):
        for row in page:
            header = json.loads(row.header)
            found = results.instance(row, header, "", with_series=True, with_study=True)
            found = results.with_fields(found, header, query, late)
            if _late_match(found, late):
                yield found


_SEARCH = {"PATIENT": _patients, "STUDY": _studies, "SERIES": _series, "IMAGE": _images}


def instances_of(scope: Scope, identifier: Dataset) -> QuerySet[Instance]:
    """What C-MOVE and C-GET are asked for, by unique keys (PS3.4 C.4.2.2.1). Raises BadIdentifier."""
    level = level_of(identifier)
    rows = scope.instances
    required = {
        "PATIENT": ("PatientID", "series__study__patient__patient_id"),
        "STUDY": ("StudyInstanceUID", "series__study__study_instance_uid"),
        "SERIES": ("SeriesInstanceUID", "series__series_instance_uid"),
        "IMAGE": ("SOPInstanceUID", "sop_instance_uid"),
    }
    for name, (keyword, column) in required.items():
        values = [text for text in _text(identifier.get(keyword)).split("\\") if text]
        if any(char in text for text in values for char in "*?"):
            raise BadIdentifier(f"{keyword} holds a wildcard")
        if values:
            rows = rows.filter(**{f"{column}__in": values})
        elif name == level:
            raise BadIdentifier(f"{keyword} is missing")
        if name == level:
            break
    return rows.order_by("series__study_id", "series__series_number", "series_id", "instance_number", "pk")
