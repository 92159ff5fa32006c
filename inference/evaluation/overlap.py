"""What the evaluated cases share with the data that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from inference.registry import ensembles
from inference.registry.models import ModelVersion
from inference.training.models import TrainingRun
from studies.cohorts.models import Case, Split
from studies.dicom.series import MANUFACTURER
from studies.models import Instance

INSTITUTION_NAME = "00080080"


def with_training(version: ModelVersion, cases: Sequence[Case]) -> dict[str, Any]:
    """Patients, studies, scanners and institutions that appear on both sides.

    Patients count as the same where project and patient match. `known` is False where nobody recorded the training
    data, as for an imported model: nothing can be said then.
    """
    trained = ensembles.members_of(version.manifest) or [version.pk]
    runs = list(TrainingRun.objects.filter(version__in=trained).select_related("reference"))
    if len({run.version_id for run in runs}) < len(set(trained)):
        which = "The version does not say" if len(trained) == 1 else "Not every member of the ensemble says"
        return {"known": False, "reason": f"{which} on which cases it was trained."}
    used = list(
        Case.objects.filter(
            cohort__in=[run.reference.cohort_id for run in runs],
            cohort_patient__split__in=[Split.TRAIN, Split.VALIDATION],
            reference_labels__reference__in=[run.reference_id for run in runs],
        )
        .select_related("image")
        .distinct()
    )
    evaluated = list(Case.objects.filter(pk__in=[case.pk for case in cases]).select_related("image", "cohort_patient"))
    patients = _patients(used) & _patients(evaluated)
    scanners = scanners_of(used) & scanners_of(evaluated)
    sources = institutions_of(used) & institutions_of(evaluated)
    return {
        "known": True,
        "patients": len(patients),
        "of_patients": len(_patients(evaluated)),
        "studies": len({case.study_id for case in used} & {case.study_id for case in evaluated}),
        "scanners": len(scanners),
        "scanner_names": sorted(scanners),
        "sources": len(sources),
        "source_names": sorted(sources),
        "same_cohort": bool({case.cohort_id for case in evaluated} & {run.reference.cohort_id for run in runs}),
    }


def words(shared: dict[str, Any]) -> list[str]:
    """What an evaluation's `overlap` says is shared with the training data; empty where nothing is shared."""
    if not shared:
        return []
    if shared.get("known") is False:
        return ["it is not recorded on which cases this version was trained"]
    told = []
    for key, one, many in (
        ("patients", "patient is", "patients are"),
        ("studies", "study is", "studies are"),
        ("scanners", "scanner is", "scanners are"),
        ("sources", "institution is", "institutions are"),
    ):
        count = shared.get(key) or 0
        if count:
            told.append(f"{count} {one if count == 1 else many} also in the training data")
    return told


def _patients(cases: Iterable[Case]) -> set[int]:
    return set(
        Case.objects.filter(pk__in=[case.pk for case in cases]).values_list("cohort_patient__patient_id", flat=True)
    )


def scanners_of(cases: Iterable[Case]) -> set[str]:
    """Manufacturer and model. Converted images name the converter, which says nothing of the scanner."""
    names = (f"{case.image.manufacturer} {case.image.manufacturer_model_name}".strip() for case in cases)
    return {name for name in names if name and name != MANUFACTURER}


def institutions_of(cases: Sequence[Case]) -> set[str]:
    first = (
        Instance.objects.filter(series__in=[case.image_id for case in cases])
        .order_by("series", "id")
        .distinct("series")
        .values_list("header", flat=True)
    )
    found: set[str] = set()
    for header in first:
        values = json.loads(header).get(INSTITUTION_NAME, {}).get("Value") or []
        found.update(str(value) for value in values if value)
    return found
