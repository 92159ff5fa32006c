"""Taking a study out of the archive for good, or handing it to another project.

Rows go in one transaction, which also writes down the files to remove (`RemovedFile`). They are removed after the
commit; what a crash leaves is removed by the next call, or by `manage.py check_archive`, before that could take the
files for lost ones.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Count, ProtectedError, Sum

from portal.accounts.audit import trail
from portal.accounts.models import Project
from studies.dicomweb import metadata
from studies.ingest.staging import media
from studies.models import Instance, Origin, Patient, RemovedFile, Series, Study

logger = logging.getLogger(__name__)


class RemovalError(Exception):
    """`cause` and `next_step` are for people; neither carries a patient's identity."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Contents:
    series: int
    objects: int
    size: int  # bytes


def contents(study: Study) -> Contents:
    """All that lies in a study, whoever may see it."""
    found = Instance.objects.filter(series__study=study).aggregate(
        objects=Count("pk"), size=Sum("file_size"), series=Count("series", distinct=True)
    )
    return Contents(found["series"], found["objects"], found["size"] or 0)


def delete(study: Study, *, cached: Iterable[str] = ()) -> None:
    """Delete a study with its objects. `cached`: further files below MEDIA_ROOT that show it.

    Raises RemovalError where a cohort, a result or a reading rests on it.
    """
    try:
        with transaction.atomic():
            study = _locked(study)
            series = list(Series.objects.filter(study=study).values_list("pk", flat=True))
            files = list(Instance.objects.filter(series__in=series).values_list("file", flat=True))
            files += [*cached, *(metadata.cache_of(pk) for pk in series)]
            RemovedFile.objects.bulk_create(RemovedFile(file=file) for file in files)
            trail.record("study.delete", study, objects=len(files))
            patient = study.patient
            Instance.objects.filter(series__in=series).delete()
            study.delete()
            _delete_without_studies(patient)
            transaction.on_commit(finish)
    except ProtectedError as error:
        raise _in_use(error) from None


def delete_result(series: Series) -> None:
    """Delete a series that a model made. Raises RemovalError where something rests on it."""
    if series.origin != Origin.MODEL:
        raise RemovalError("This series is no model's result.", "Delete the study instead.")
    try:
        with transaction.atomic():
            study = _locked(series.study)
            files = list(Instance.objects.filter(series=series).values_list("file", flat=True))
            RemovedFile.objects.bulk_create(RemovedFile(file=file) for file in [*files, metadata.cache_of(series.pk)])
            Instance.objects.filter(series=series).delete()
            series.delete()
            _count_again(study)
            transaction.on_commit(finish)
    except ProtectedError as error:
        raise _in_use(error) from None


def _count_again(study: Study) -> None:
    """What a study repeats of its series."""
    rows = list(study.series.order_by("pk").values_list("modality", "body_part_examined", "number_of_instances"))
    study.number_of_series, study.number_of_instances = len(rows), sum(n for _, _, n in rows)
    study.modalities_in_study = list(dict.fromkeys(modality for modality, _, _ in rows if modality))
    study.body_parts_examined = list(dict.fromkeys(part for _, part, _ in rows if part))
    study.save(
        update_fields=[
            "number_of_series", "number_of_instances", "modalities_in_study", "body_parts_examined", "updated_at",
        ]
    )  # fmt: skip


def move(study: Study, project: Project) -> Study:
    """Hand a study with its objects to another project; the patient is there by the same identifiers, or is made.

    Files stay where they are. Raises RemovalError where the other project holds some of it already, or where a cohort
    or a result rests on it.
    """
    with transaction.atomic():
        study = _locked(study)
        if study.project_id == project.pk:
            raise RemovalError(f"The study is in {project} already.")
        uids = Instance.objects.filter(series__study=study).values("sop_instance_uid")
        if (
            Study.objects.filter(project=project, study_instance_uid=study.study_instance_uid).exists()
            or Instance.objects.filter(project=project, sop_instance_uid__in=uids).exists()
        ):
            raise RemovalError(
                f"{project} holds this study already, or some of its objects.", "Delete it there or here instead."
            )
        if study.cases.exists() or study.predictions.exists():  # type: ignore[attr-defined]
            raise RemovalError("Cohorts or results rest on this study.", "Take it out of them first.")
        before = study.patient
        patient, _ = Patient.objects.get_or_create(
            project=project,
            patient_id=before.patient_id,
            issuer_of_patient_id=before.issuer_of_patient_id,
            defaults={name: getattr(before, name) for name in ("patient_name", "patient_birth_date", "patient_sex")},
        )
        trail.record("study.move", study, to=project.pk)
        study.project, study.patient = project, patient
        study.save(update_fields=["project", "patient", "updated_at"])
        Instance.objects.filter(series__study=study).update(project=project)
        study.embargoes.all().delete()
        study.clinical_values.all().delete()  # type: ignore[attr-defined]  # of variables of the other project
        _delete_without_studies(before)
    return study


def finish() -> int:
    """Remove the files of deleted studies; returns how many were left that could not be removed."""
    left = 0
    for row in RemovedFile.objects.order_by("pk").iterator(chunk_size=1000):
        path = media(row.file)
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            left += 1
            logger.error("a file of a deleted study cannot be removed", extra={"kind": type(error).__name__})
        else:
            row.delete()
    return left


def _locked(study: Study) -> Study:
    locked = Study.objects.select_for_update(of=("self",)).select_related("patient").filter(pk=study.pk).first()
    if locked is None:
        raise RemovalError("The study is gone already.", "Reload the page.")
    return locked


def _delete_without_studies(patient: Patient) -> None:
    """A patient stays as long as there are studies, a place in a cohort, or clinical values."""
    if not patient.studies.exists() and not patient.cohort_places.exists() and not patient.clinical_values.exists():
        patient.delete()


def _in_use(error: ProtectedError) -> RemovalError:
    kinds = sorted({str(one._meta.verbose_name_plural) for one in error.protected_objects})
    return RemovalError(f"It is still in use by {', '.join(kinds)}.", "Take it out of them first.")
