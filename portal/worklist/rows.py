"""The rows of the worklist: everything a page shows about its studies, in a fixed number of queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from django.db.models import Count, QuerySet, Sum

from inference.prediction import answers
from inference.prediction.models import Prediction
from inference.registry.models import Model
from portal.accounts.models import Project, Role, User
from portal.annotation.models import Task
from portal.worklist.filters import NOT_IMAGES
from studies.models import Origin, Patient, Series, Study
from studies.quality.models import Finding


@dataclass
class Row:
    study: Study
    modalities: list[str] = field(default_factory=list)
    series: int = 0
    images: int = 0
    results: list[Prediction] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # of the quality control, in words, each once
    reading: str = ""  # "", "reading", "read"

    @property
    def latest(self) -> Prediction | None:
        return self.results[0] if self.results else None

    @property
    def person(self) -> str:
        return person(self.study.patient, self.study.study_date)


def person(patient: Patient, on: date | None) -> str:
    """Sex and age in years at a day, as far as known: "F 63"."""
    words = [patient.patient_sex] if patient.patient_sex else []
    born = patient.patient_birth_date
    if born and on and on >= born:
        words.append(str(on.year - born.year - ((on.month, on.day) < (born.month, born.day))))
    return " ".join(words)


def said(prediction: Prediction) -> tuple[str, str]:
    """Status and words of a result: what was found, or that it is there."""
    task = prediction.version.model.task
    if task == Model.Task.SEGMENTATION:
        return "ok", "Segmented" if prediction.segmentation_id else "Nothing found"
    answer = answers.of(prediction)
    return answer.status, answer.words


def in_order(keys: list[int], user: User) -> list[Study]:
    """The studies of `keys` in that order, with patient and project."""
    visible = Study.objects.visible_to(user).filter(pk__in=keys).select_related("patient", "project")
    studies = {study.pk: study for study in visible}
    return [studies[key] for key in keys if key in studies]


def build(studies: QuerySet[Study] | list[Study], user: User) -> list[Row]:
    rows = {study.pk: Row(study) for study in studies}
    for entry in (
        Series.objects.visible_to(user)
        .filter(study__in=rows)
        .values("study", "modality", "origin")
        .annotate(series=Count("pk"), images=Sum("number_of_instances"))
        .order_by("modality")
    ):
        row = rows[entry["study"]]
        row.series += entry["series"]
        row.images += entry["images"] or 0
        # What models and readers made has modalities of its own, such as OT for the map of a model.
        if entry["modality"] and entry["origin"] == Origin.ACQUIRED and entry["modality"] not in NOT_IMAGES:
            row.modalities.append(entry["modality"])
    for finding in Finding.objects.visible_to(user).filter(series__study__in=rows).select_related("series"):
        words = rows[finding.series.study_id].findings
        if finding.get_code_display() not in words:
            words.append(finding.get_code_display())
    results = Prediction.objects.visible_to(user).filter(study__in=rows).select_related("version__model")
    for prediction in results.order_by("-created_at", "-id"):
        prediction.status, prediction.words = said(prediction)
        rows[prediction.study_id].results.append(prediction)
    # Only a manager sees who reads what: to a reader the link from a patient to a blinded task would undo the blinding.
    managed = Project.objects.visible_to(user)
    if not user.is_superuser:
        managed = managed.filter(memberships__role=Role.MANAGER, memberships__user=user)
    states = (
        Task.objects.visible_to(user)
        .filter(case__study__in=rows, campaign__project__in=managed)
        .values_list("case__study", "state")
        .distinct()
    )
    by_study: dict[int, set[str]] = {}
    for study, state in states:
        by_study.setdefault(study, set()).add(state)
    for study, seen in by_study.items():
        rows[study].reading = "reading" if seen & {Task.State.OPEN, Task.State.STARTED} else "read"
    return list(rows.values())
