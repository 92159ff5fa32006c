"""Which patient and study a row of a table is about: by PatientID, StudyInstanceUID, AccessionNumber or pseudonym."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from portal.accounts.models import Project
from studies.cohorts.models import Case, Cohort
from studies.models import Patient, Study

# What a column may identify by, in the words of the pages.
KEYS = {
    "patient_id": "Patient ID",
    "study_instance_uid": "Study Instance UID",
    "accession_number": "Accession number",
    "case": "Pseudonym of a case (C-0001)",
}


@dataclass(frozen=True)
class Found:
    """`study` is None where only the patient is named; `studies` are all of theirs then."""

    patient: Patient
    study: Study | None = None


class Unidentified(Exception):
    """A row about which it cannot be said whom it is about."""

    def __init__(self, code: str, cause: str, key: str = ""):
        super().__init__(code)
        self.code = code
        self.cause = cause
        self.key = key


class Directory:
    """The patients and studies of one project that a table names, looked up in a fixed number of queries."""

    def __init__(self, project: Project, named: Iterable[Mapping[str, str]], cohort: Cohort | None = None):
        self.project = project
        wanted: dict[str, set[str]] = {key: set() for key in KEYS}
        for row in named:
            for key, value in row.items():
                if value:
                    wanted[key].add(value)
        self.patients: dict[str, list[Patient]] = defaultdict(list)
        for patient in Patient.objects.filter(project=project, patient_id__in=wanted["patient_id"]).order_by("pk"):
            self.patients[patient.patient_id].append(patient)
        studies = Study.objects.filter(project=project).select_related("patient").order_by("pk")
        self.by_uid = {
            study.study_instance_uid: study
            for study in studies.filter(study_instance_uid__in=wanted["study_instance_uid"])
        }
        self.by_accession: dict[str, list[Study]] = defaultdict(list)
        for study in studies.filter(accession_number__in=wanted["accession_number"]):
            self.by_accession[study.accession_number].append(study)
        self.by_case: dict[str, list[Study]] = defaultdict(list)
        cases = Case.objects.filter(cohort__project=project, name__in=wanted["case"])
        for case in (cases.filter(cohort=cohort) if cohort else cases).select_related("study__patient").order_by("pk"):
            if case.study not in self.by_case[case.name]:
                self.by_case[case.name].append(case.study)

    def find(self, row: Mapping[str, str]) -> Found:
        """Raises `Unidentified` (`no_identifier`, `unknown_…`, `ambiguous_…`, `two_identities`)."""
        given = {key: value for key, value in row.items() if value}
        if not given:
            raise Unidentified("no_identifier", "The row does not say whom it is about.", next(iter(row), ""))
        studies = {key: self._study(key, value) for key, value in given.items() if key != "patient_id"}
        found = {study.pk: study for study in studies.values()}
        if len(found) > 1:
            raise Unidentified(
                "two_identities", "The identifiers of the row belong to different studies.", next(iter(given))
            )
        study = next(iter(found.values()), None)
        if "patient_id" not in given:
            assert study is not None
            return Found(study.patient, study)
        of_id = self.patients.get(given["patient_id"], [])
        if study is not None:
            if study.patient.patient_id != given["patient_id"]:
                raise Unidentified(
                    "two_identities",
                    "The study belongs to a patient with another ID: one patient has two, or two were mixed.",
                    "patient_id",
                )
            return Found(study.patient, study)
        if not of_id:
            raise Unidentified("unknown_patient_id", "No patient of the project has this ID.", "patient_id")
        if len(of_id) > 1:
            raise Unidentified(
                "ambiguous_patient_id",
                f"{len(of_id)} patients of different hospitals have this ID (Issuer of Patient ID); name the study.",
                "patient_id",
            )
        return Found(of_id[0])

    def _study(self, key: str, value: str) -> Study:
        if key == "study_instance_uid":
            found = [self.by_uid[value]] if value in self.by_uid else []
        else:
            found = (self.by_accession if key == "accession_number" else self.by_case).get(value, [])
        what = {"study_instance_uid": "StudyInstanceUID", "accession_number": "AccessionNumber", "case": "pseudonym"}[
            key
        ]
        if not found:
            raise Unidentified(f"unknown_{key}", f"No study of the project has this {what}.", key)
        if len(found) > 1:
            raise Unidentified(f"ambiguous_{key}", f"{len(found)} studies have this {what}.", key)
        return found[0]


@dataclass(frozen=True)
class Person:
    """What a table says of the person beside the identifier, to notice mixed-up patients; empty: nothing."""

    born: date | None = None
    sex: str = ""
    name: str = ""


def contradiction(patient: Patient, said: Person) -> str:
    """Why a row cannot be about this patient, or ""."""
    if said.born and patient.patient_birth_date and said.born != patient.patient_birth_date:
        return "birth date"
    if said.sex in ("M", "F") and patient.patient_sex in ("M", "F") and said.sex != patient.patient_sex:
        return "sex"
    return ""


def sex_of(text: str) -> str:
    """M, F or O as DICOM has it, or "" where the text says none of these."""
    word = text.strip().casefold()
    return {
        "m": "M",
        "male": "M",
        "man": "M",
        "f": "F",
        "female": "F",
        "w": "F",
        "woman": "F",
        "o": "O",
        "other": "O",
    }.get(word, "")
