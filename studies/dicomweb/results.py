"""Rows as the DICOM JSON objects that QIDO-RS returns (PS3.18 tables 10.6.3-3 to 10.6.3-5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

from studies.dicomweb.matching import Key, Query
from studies.models import Instance, Series

Dataset = dict[str, Any]
# What the answers of each level hold without being asked for it; TimezoneOffsetFromUTC is never known.
STUDY_TAGS = frozenset(
    {
        *(0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080056, 0x00080061, 0x00080090, 0x00080201, 0x00081030),
        *(0x00081190, 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x00200010, 0x00201206, 0x00201208),
    }
)
SERIES_TAGS = frozenset(
    {
        *(0x00080005, 0x00080021, 0x00080031, 0x00080060, 0x0008103E, 0x00081190, 0x00180015, 0x0020000D, 0x0020000E),
        *(0x00200011, 0x00201209),
    }
)
FROM_HEADER = ("00280100",)


@dataclass(frozen=True, slots=True)
class Counts:
    """What of a study is visible."""

    series: int
    instances: int
    modalities: list[str]


as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def text(vr: str, *values: str | None) -> dict[str, Any]:
    kept = [value for value in values if value]
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


def number(vr: str, value: int | None) -> dict[str, Any]:
    return {"vr": vr} if value is None else {"vr": vr, "Value": [value]}


def day(value: date | None) -> dict[str, Any]:
    return text("DA", f"{value.year:04}{value.month:02}{value.day:02}" if value else "")


def name(value: str) -> dict[str, Any]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("\\")[0].split("="), strict=False)
    person = {key: group for key, group in groups if group}
    return {"vr": "PN", "Value": [person]} if person else {"vr": "PN"}


def study_text(row: Any, base: str, counts: Counts | None, *, modality: bool = False) -> str:
    """A study as JSON text, its attributes in the order of tags. `row` has the attributes of `Study` that are used
    here; `modality` adds the Modality that all series share, for clients that ask for it with studies."""
    patient, uid, counts = row.patient, row.study_instance_uid, counts or _NOTHING
    shared = counts.modalities[0] if len(counts.modalities) == 1 else ""
    return (
        '{"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
        f',"00080020":{_day_text(row.study_date)}'
        f',"00080030":{_text_text("TM", row.study_time)}'
        f',"00080050":{_text_text("SH", row.accession_number)}'
        ',"00080056":{"vr":"CS","Value":["ONLINE"]}'
        + (f',"00080060":{_text_text("CS", shared)}' if modality and shared else "")
        + f',"00080061":{as_json(text("CS", *counts.modalities))}'
        f',"00080090":{_name_text(row.referring_physician_name)}'
        f',"00081030":{_text_text("LO", row.study_description)}'
        f',"00081190":{_text_text("UR", f"{base}/studies/{uid}")}'
        f',"00100010":{_name_text(patient.patient_name)}'
        f',"00100020":{_text_text("LO", patient.patient_id)}'
        f',"00100030":{_day_text(patient.patient_birth_date)}'
        f',"00100040":{_text_text("CS", patient.patient_sex)}'
        f',"0020000D":{_text_text("UI", uid)}'
        f',"00200010":{_text_text("SH", row.study_id)}'
        f',"00201206":{{"vr":"IS","Value":[{counts.series}]}}'
        f',"00201208":{{"vr":"IS","Value":[{counts.instances}]}}}}'
    )


_NOTHING = Counts(0, 0, [])
_quoted = json.encoder.encode_basestring


def _text_text(vr: str, value: str) -> str:
    return f'{{"vr":"{vr}","Value":[{_quoted(value)}]}}' if value else f'{{"vr":"{vr}"}}'


def _day_text(value: date | None) -> str:
    if value is None:
        return '{"vr":"DA"}'
    return f'{{"vr":"DA","Value":["{value.year:04}{value.month:02}{value.day:02}"]}}'


def _name_text(value: str) -> str:
    if not value or "=" in value or "\\" in value:
        return as_json(name(value))
    return f'{{"vr":"PN","Value":[{{"Alphabetic":{_quoted(value)}}}]}}'


def study(row: Any, base: str, counts: Counts | None, *, modality: bool = False) -> Dataset:
    found: Dataset = json.loads(study_text(row, base, counts, modality=modality))
    return found


def series(row: Series, base: str, study_counts: Counts | None) -> Dataset:
    """`study_counts` is given where the search was not below one study: its attributes are added."""
    owner = row.study
    found = study(owner, base, study_counts) if study_counts is not None else {"00080005": text("CS", "ISO_IR 192")}
    return found | {
        "00080021": day(row.series_date),
        "00080031": text("TM", row.series_time),
        "00080060": text("CS", row.modality),
        "0008103E": text("LO", row.series_description),
        "00081190": text("UR", f"{base}/studies/{owner.study_instance_uid}/series/{row.series_instance_uid}"),
        "00180015": text("CS", row.body_part_examined),
        "0020000D": text("UI", owner.study_instance_uid),
        "0020000E": text("UI", row.series_instance_uid),
        "00200011": number("IS", row.series_number),
        "00201209": number("IS", row.number_of_instances),
    }


def instance(row: Instance, header: Dataset, base: str, *, with_series: bool, with_study: bool) -> Dataset:
    owner, of_study = row.series, row.series.study
    address = f"{base}/studies/{of_study.study_instance_uid}/series/{owner.series_instance_uid}"
    found: Dataset = {"00080005": text("CS", "ISO_IR 192")}
    if with_study:
        found = study(of_study, base, None)
        for tag in ("00080061", "00201206", "00201208"):
            del found[tag]
    if with_series:
        found |= series(owner, base, None)
    found |= {
        "00080016": text("UI", row.sop_class_uid),
        "00080018": text("UI", row.sop_instance_uid),
        "00080056": text("CS", "ONLINE"),
        "00081190": text("UR", f"{address}/instances/{row.sop_instance_uid}"),
        "0020000D": text("UI", of_study.study_instance_uid),
        "0020000E": text("UI", owner.series_instance_uid),
        "00200013": number("IS", row.instance_number),
        "00083002": text("UI", row.transfer_syntax_uid),
    }
    if row.number_of_frames:
        found |= {"00280010": number("US", row.rows), "00280011": number("US", row.columns)}
        found |= {tag: header[tag] for tag in FROM_HEADER if tag in header}
        if row.number_of_frames > 1:
            found["00280008"] = number("IS", row.number_of_frames)
    return found


def with_fields(found: Dataset, header: Dataset | None, query: Query, late: list[Key]) -> Dataset:
    """Add what `includefield` and the match keys ask for, in the order of tags."""
    if header is not None:
        if query.include_all:
            wanted = list(header)
        else:
            tags = query.include | {key.path[0] for key in late}
            wanted = [f"{tag:08X}" for tag in tags]
        for tag in wanted:
            if tag in header and tag not in found and "BulkDataURI" not in header[tag]:
                found[tag] = header[tag]
    return dict(sorted(found.items()))
