"""Rows as the DICOM JSON objects that QIDO-RS returns (PS3.18 tables 10.6.3-3 to 10.6.3-5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from studies.dicomweb.matching import Key, Query
from studies.models import Instance, Series, Study

Dataset = dict[str, Any]
STUDY_TAGS = frozenset({0x00080005, 0x00080056, 0x00080201, 0x00081190, 0x00201206, 0x00201208})
SERIES_TAGS = STUDY_TAGS | {0x00201209}
_FROM_HEADER = ("00280100",)


@dataclass(frozen=True, slots=True)
class Counts:
    """What of a study is visible."""

    series: int
    instances: int
    modalities: list[str]


def text(vr: str, *values: str | None) -> dict[str, Any]:
    kept = [value for value in values if value]
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


def number(vr: str, value: int | None) -> dict[str, Any]:
    return {"vr": vr} if value is None else {"vr": vr, "Value": [value]}


def day(value: date | None) -> dict[str, Any]:
    return text("DA", value.strftime("%Y%m%d") if value else "")


def name(value: str) -> dict[str, Any]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("\\")[0].split("="), strict=False)
    person = {key: group for key, group in groups if group}
    return {"vr": "PN", "Value": [person]} if person else {"vr": "PN"}


def study(row: Study, base: str, counts: Counts | None) -> Dataset:
    counts = counts or Counts(0, 0, [])
    patient = row.patient
    return {
        "00080005": text("CS", "ISO_IR 192"),
        "00080020": day(row.study_date),
        "00080030": text("TM", row.study_time),
        "00080050": text("SH", row.accession_number),
        "00080056": text("CS", "ONLINE"),
        "00080061": text("CS", *counts.modalities),
        "00080090": name(row.referring_physician_name),
        "00081030": text("LO", row.study_description),
        "00081190": text("UR", f"{base}/studies/{row.study_instance_uid}"),
        "00100010": name(patient.patient_name),
        "00100020": text("LO", patient.patient_id),
        "00100030": day(patient.patient_birth_date),
        "00100040": text("CS", patient.patient_sex),
        "0020000D": text("UI", row.study_instance_uid),
        "00200010": text("SH", row.study_id),
        "00201206": number("IS", counts.series),
        "00201208": number("IS", counts.instances),
    }


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
        found |= {tag: header[tag] for tag in _FROM_HEADER if tag in header}
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
