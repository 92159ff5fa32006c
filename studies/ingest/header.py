"""What the archive's rows need of a file, taken from one walk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from studies.dicom import part10
from studies.dicom.dicom_json import dicom_json, encodings_of, text_of
from studies.dicom.frame_table import frame_table, number_of_frames
from studies.dicom.vr import is_image_class
from studies.ingest.outcome import Refused

_UID = re.compile(r"[0-9.]{1,64}\Z")
_KEYWORDS = {0x0020000D: "StudyInstanceUID", 0x0020000E: "SeriesInstanceUID", 0x00080018: "SOPInstanceUID"}


@dataclass(slots=True)
class Header:
    """Values for the rows of Patient, Study, Series and Instance, cut to the size of their columns."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    is_image: bool
    synthetic: bool
    patient: dict[str, Any]
    study: dict[str, Any]
    series: dict[str, Any]
    instance: dict[str, Any]

    @property
    def modality(self) -> str:
        return self.series["modality"]

    @property
    def derived_object(self) -> bool:
        """Made about images rather than acquired: segmentations, reports, presentation states, plans."""
        return not self.is_image or self.modality in {"SEG", "SR", "RTSTRUCT", "PR", "KO"}


def read(path: Path) -> Header:
    """Walk the file at `path`. Raises `Refused`."""
    try:
        with part10.mapped(path) as buffer:
            return of_walk(part10.walk(buffer))
    except part10.Part10Error as error:
        raise Refused(error.code, error.reason, keep=error.code not in ("empty", "not_dicom")) from error


def of_walk(file: part10.Part10) -> Header:
    sop_class = file.text(0x00080016) or file.text(0x00020002, file.meta)
    if sop_class == "1.2.840.10008.1.3.10":
        raise Refused("dicomdir", "A DICOMDIR is an index of other files; import the files it lists.", keep=False)
    uids = {tag: file.text(tag) for tag in _KEYWORDS}
    if not uids[0x00080018]:
        uids[0x00080018] = file.text(0x00020003, file.meta)
    for tag, value in uids.items():
        if not _UID.match(value):
            what = "is missing" if not value else "is not a UID"
            raise Refused("no_identity", f"{_KEYWORDS[tag]} {part10.tag_name(tag)} {what}.")
    if not _UID.match(sop_class):
        raise Refused("no_identity", "SOPClassUID (0008,0016) is missing.")
    is_image = is_image_class(sop_class)
    if is_image and file.pixel_element is None:
        raise Refused("no_pixel_data", "The object is an image, but it has no pixel data (7FE0,0010).")
    frames = number_of_frames(file)
    table = frame_table(file)

    encodings = encodings_of(file, file.dataset)

    def text(tag: int, size: int) -> str:
        return _clean(text_of(file, tag, encodings), size)

    study_uid = uids[0x0020000D]
    patient_id = text(0x00100020, 64)
    return Header(
        study_instance_uid=study_uid,
        series_instance_uid=uids[0x0020000E],
        sop_instance_uid=uids[0x00080018],
        sop_class_uid=sop_class,
        transfer_syntax_uid=file.transfer_syntax_uid[:64],
        is_image=is_image or frames > 0,
        synthetic=file.text(0x0008001C) == "YES",
        patient={
            "patient_id": patient_id,
            # Without a PatientID nobody knows whether two studies are of one person: the study stands for its patient.
            "issuer_of_patient_id": text(0x00100021, 64) if patient_id else study_uid,
            "patient_name": text(0x00100010, 324),
            "patient_birth_date": _date(file.text(0x00100030)),
            "patient_sex": text(0x00100040, 16),
        },
        study={
            "study_date": _date(file.text(0x00080020)),
            "study_time": text(0x00080030, 16),
            "study_id": text(0x00200010, 16),
            "study_description": text(0x00081030, 64),
            "accession_number": text(0x00080050, 16),
            "referring_physician_name": text(0x00080090, 324),
        },
        series={
            "modality": text(0x00080060, 16),
            "series_number": _integer(file.number(0x00200011)),
            "series_description": text(0x0008103E, 64),
            "series_date": _date(file.text(0x00080021)),
            "series_time": text(0x00080031, 16),
            "body_part_examined": text(0x00180015, 16),
            "laterality": text(0x00200060, 16),
            "manufacturer": text(0x00080070, 64),
            "manufacturer_model_name": text(0x00081090, 64),
            "station_name": text(0x00081010, 16),
            "frame_of_reference_uid": text(0x00200052, 64),
        },
        instance={
            "instance_number": _integer(file.number(0x00200013)),
            "rows": file.number(0x00280010),
            "columns": file.number(0x00280011),
            "number_of_frames": frames,
            "frame_table": table,
            "header": dicom_json(file),
        },
    )


def _clean(text: str, size: int) -> str:
    return text.replace("\0", "").strip()[:size]


def _date(text: str) -> date | None:
    digits = text.strip().replace(".", "").replace("-", "")[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None


def _integer(value: int | None) -> int | None:
    return value if value is not None and -(2**31) <= value < 2**31 else None
