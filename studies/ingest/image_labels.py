"""The rows of a table of pictures: which column is what, whose picture it is and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portal.accounts.models import Project, User
from studies.cohorts.identification import sex_of
from studies.dicom import picture
from studies.dicom.series import Identity
from studies.models import ImportBatch
from studies.tabular import values
from studies.tabular.problems import TableError
from studies.tabular.reading import Row, Table

# What a column is, by its heading; `--column` says otherwise.
HEADINGS = {
    "file": r"(file([\s_-]*(name|path))?|image([\s_-]*(file|path|name))?|filename|path)",
    "label": r"(label|class|diagnosis|target|category)",
    "patient": r"(patient([\s_-]*id)?|pid|subject([\s_-]*id)?)",
    "group": r"((dup(licate)?|near[\s_-]*dup(licate)?)([\s_-]*(group|id|cluster))?|group)",
    "source": r"(source|site|hospital|cent(er|re)|dataset|collection)",
    "view": r"(view([\s_-]*position)?|projection)",
    "sex": r"((patient[\s_-]*)?(sex|gender))",
    "age": r"((patient[\s_-]*)?age)",
    "modality": r"(modality)",
    "body_part": r"(body[\s_-]*part([\s_-]*examined)?)",
    "synthetic": r"(synthetic([\s_-]*data)?)",
}
_XRAY_WORDS = {"cr": "CR", "dx": "DX", "x-ray": "CR", "xray": "CR", "cxr": "CR", "radiograph": "CR", "rx": "CR"}
_VIEW = re.compile(r"(AP|PA|LL|RL|L|LATERAL|AP SUPINE|AP ERECT|PA ERECT)", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What to import and how. `modality` "" lets the table say it; `columns`: field → heading, where it is not found by
    itself; `design`: parameters of `cohorts.freeze`, None to leave the cohort open."""

    project: Project
    labels: Path
    cohort: str
    folder: Path | None = None
    modality: str = ""
    body_part: str = ""
    synthetic: bool = False
    reference: str = "Image labels"
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    design: Mapping[str, Any] | None = None
    by: User | None = None
    source: str = ImportBatch.Source.COMMAND


@dataclass(frozen=True)
class Entry:
    """A row that can be imported."""

    row: Row
    name: str
    said: Mapping[str, str]
    identity: Identity
    about: picture.About


class Skip(Exception):
    """Why a row is left out."""

    def __init__(self, code: str, reason: str):
        super().__init__(code)
        self.code = code
        self.reason = reason


def columns_of(table: Table, plan: Plan) -> dict[str, int]:
    """Field → place of its column. Raises `TableError` (`no_column`)."""
    at: dict[str, int] = {}
    for name, heading in plan.columns.items():
        if name not in HEADINGS or heading not in table.header:
            raise TableError("no_column", f"There is no column “{heading}” that could be the {name}.")
        at[name] = table.header.index(heading)
    for name, pattern in HEADINGS.items():
        if name not in at:
            for place, heading in enumerate(table.header):
                if place not in at.values() and re.fullmatch(pattern, heading.strip(), re.IGNORECASE):
                    at[name] = place
                    break
    if "file" not in at:
        raise TableError(
            "no_column", f"No column says which file a row is about. The table has: {', '.join(table.header[:20])}."
        )
    return at


def of_radiographs(table: Table, at: Mapping[str, int]) -> bool:
    """Whether the table is one of X-ray pictures: a column of views that holds radiographic projections only."""
    if "view" not in at:
        return False
    views = [
        values.text_of(row.cells[at["view"]]) for row in table.rows if not values.is_missing(row.cells[at["view"]])
    ]
    return bool(views) and all(_VIEW.fullmatch(view.strip()) for view in views)


def entry_of(
    plan: Plan, row: Row, said: Mapping[str, str], digest: str, radiographs: bool, with_patients: bool
) -> Entry:
    patient = said.get("patient", "")
    if with_patients and not patient:
        raise Skip("no_patient", "The row names no patient, so its picture could not be kept on one side of a split.")
    name = Path(said["file"].replace("\\", "/")).name
    patient = patient or f"picture-{digest[:16]}"
    if len(patient) > 64 or not patient.isprintable() or "\\" in patient:
        raise Skip(
            "patient_id", "The patient's ID is longer than 64 characters or holds characters that DICOM forbids."
        )
    modality = plan.modality or said.get("modality", "")
    modality = _XRAY_WORDS.get(modality.casefold(), modality.upper()) or ("CR" if radiographs else "OT")
    if not re.fullmatch(r"[A-Z0-9]{2,16}", modality):
        raise Skip("modality", f"“{modality[:20]}” is no modality; DICOM has CR, DX, XC, OP and others.")
    sex = sex_of(said.get("sex", ""))
    if said.get("sex") and not sex and said["sex"].casefold() not in ("unknown", "u", "-"):
        raise Skip("sex", f"“{said['sex'][:20]}” is no sex: write M, F or O.")
    body_part = (said.get("body_part") or plan.body_part).upper()
    if not re.fullmatch(r"[A-Z0-9 _]{0,16}", body_part):
        raise Skip("body_part", "The body part has more than 16 letters, or characters that DICOM forbids.")
    synthetic = plan.synthetic or said.get("synthetic", "").casefold() in ("1", "yes", "true", "y")
    identity = Identity(
        patient_id=patient,
        patient_name=patient.replace("^", " ").replace("=", " "),
        patient_sex=sex,
        key=picture.key_of(plan.project.slug, patient, name, digest),
        study_description=plan.cohort,
        series_description=said.get("view", "")[:64] or "Picture",
        body_part_examined=body_part,
        synthetic=synthetic,
    )
    about = picture.About(modality=modality, view=said.get("view", ""), age=_age(said.get("age", "")))
    return Entry(row, name, said, identity, about)


def _age(text: str) -> int | None:
    """Years as PatientAge has them (AS: up to 999)."""
    if not text:
        return None
    match = re.fullmatch(r"0*(\d{1,3})(?:[.,]\d+)?\s*(?:y|years?)?", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) > 130:
        raise Skip("age", f"“{text[:20]}” is no age in years.")
    return int(match[1])
