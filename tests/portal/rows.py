"""Archive and evaluation rows without files, for pages that only list them."""

from __future__ import annotations

from datetime import date
from itertools import count
from typing import Any

from django.utils import timezone

from inference.evaluation.models import CaseResult, Evaluation
from inference.prediction.models import Prediction
from inference.registry.models import Model, ModelVersion
from portal.accounts.models import Project
from studies.cohorts.models import Case, Cohort, CohortPatient, ReferenceStandard
from studies.models import Patient, Series, Study

_numbers = count(1)
LABELS = [{"number": 1, "name": "Liver"}, {"number": 2, "name": "Spleen"}]


def study_row(
    project: Project,
    *,
    name: str = "DEMO^ANNA",
    patient_id: str = "",
    description: str = "CT chest",
    accession: str = "",
    on: date | None = date(2026, 11, 20),
    modality: str = "CT",
    body_part: str = "CHEST",
    images: int = 10,
) -> Study:
    number = next(_numbers)
    patient, _ = Patient.objects.get_or_create(
        project=project,
        patient_id=patient_id or f"P{number}",
        defaults={"patient_name": name, "patient_sex": "F", "patient_birth_date": date(1963, 6, 1)},
    )
    study = Study.objects.create(
        project=project,
        patient=patient,
        study_instance_uid=f"1.2.3.{number}",
        study_date=on,
        study_time="101500",
        study_description=description,
        accession_number=accession or f"A{number}",
        modalities_in_study=[modality],
        body_parts_examined=[body_part],
        number_of_series=1,
        number_of_instances=images,
    )
    series_row(study, modality=modality, images=images)
    return study


def series_row(study: Study, *, modality: str = "CT", images: int = 10, **values: Any) -> Series:
    return Series.objects.create(
        study=study,
        series_instance_uid=f"{study.study_instance_uid}.{next(_numbers)}",
        modality=modality,
        number_of_instances=images,
        **values,
    )


def cohort_row(project: Project, studies: list[Study], name: str = "Test set") -> tuple[Cohort, ReferenceStandard]:
    cohort = Cohort.objects.create(project=project, name=name)
    for number, study in enumerate(studies, start=1):
        place, _ = CohortPatient.objects.get_or_create(cohort=cohort, patient=study.patient)
        Case.objects.create(
            cohort=cohort, cohort_patient=place, study=study, image=study.series.first(), name=f"C-{number:03d}"
        )
    reference = ReferenceStandard.objects.create(cohort=cohort, name="Tracings", source="import", labels=LABELS)
    return cohort, reference


def version_row(project: Project, name: str = "organs", number: int = 1, task: str = "segmentation") -> ModelVersion:
    model, _ = Model.objects.get_or_create(project=project, name=name, defaults={"task": task})
    return ModelVersion.objects.create(
        model=model,
        number=number,
        bundle=f"{name}-{number}",
        digest="0" * 64,
        manifest={"task": "segmentation", "labels": LABELS},
    )


def prediction_row(version: ModelVersion, study: Study, **values: Any) -> Prediction:
    return Prediction.objects.create(version=version, study=study, image=study.series.first(), **values)


def entry(estimate: float, lower: float, upper: float, n: int, method: str = "bootstrap") -> dict:
    return {"estimate": estimate, "lower": lower, "upper": upper, "n": n, "method": method}


def evaluation_row(
    version: ModelVersion, reference: ReferenceStandard, summary: dict, dice: list[float] | None = None, **values: Any
) -> Evaluation:
    """A finished evaluation; `dice[i]` is the Dice of case i for the first structure."""
    evaluation = Evaluation.objects.create(
        version=version, reference=reference, summary=summary, finished_at=timezone.now(), **values
    )
    for case, value in zip(reference.cohort.cases.order_by("name"), dice or [], strict=False):
        CaseResult.objects.create(
            evaluation=evaluation,
            case=case,
            structure=next(iter(summary)),
            values={"dice": value, "sensitivity": value},
            present=True,
            predicted=value > 0,
            score=value,
        )
    return evaluation
