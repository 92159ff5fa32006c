"""The model card of a version: what people wrote, and what follows from its manifest, training and evaluations.

After Mitchell et al., “Model Cards for Model Reporting”, FAT* 2019 (arXiv:1810.03993). The generated parts are made
anew at every look and cannot be edited. No identity of a patient is in a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from inference.evaluation import detection, overlap
from inference.evaluation.models import Evaluation
from inference.registry import card_text, ensembles
from inference.registry import manifest as manifests
from inference.registry.models import ModelVersion
from inference.training.models import TrainingRun
from portal.accounts.models import User
from studies.cohorts.models import Case, Split

FORMAT = "readroom-model-card/1"
USE = "Research use, not a medical device."
DAYS_OF_YEAR = 365.25


def card_of(version: ModelVersion, user: User) -> dict[str, Any]:
    """Everything as plain values for page, Markdown and JSON; of the evaluations those that `user` may see."""
    revision = card_text.revision_of(version)
    texts = card_text.sections_of(version, revision)
    manifest = version.manifest
    return {
        "format": FORMAT,
        "use": USE,
        "model": {
            "project": version.model.project.slug,
            "name": version.model.name,
            "version": version.number,
            "task": version.model.task,
            "description": str(manifest.get("description") or version.model.description),
            "stage": version.stage,
            "made_at": version.created_at.isoformat(),
            "made_by": str(version.created_by) if version.created_by else "",
            "digest": version.digest,
        },
        "sections": [
            {"key": section.key, "title": section.title, "text": texts[section.key]} for section in card_text.SECTIONS
        ],
        "revision": {
            "number": revision.number if revision else 0,
            "by": str(revision.by) if revision else "",
            "at": revision.at.isoformat() if revision else "",
        },
        "missing": [
            section.title for section in card_text.SECTIONS if section.for_production and not texts[section.key]
        ],
        "inputs": _inputs(manifest),
        "outputs": _outputs(manifest),
        "network": _network(manifest),
        "training": training_of(version),
        "results": results_of(version, user),
        "stages": [
            {
                "from": row.from_stage,
                "to": row.to_stage,
                "reason": row.reason,
                "by": str(row.by),
                "at": row.at.isoformat(),
            }
            for row in version.promotions.select_related("by")
        ],
    }


def _inputs(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {
                "name": str(entry.get("name") or "image"),
                "modality": entry.get("modality") or [],
                "smallest": entry.get("smallest"),
                "anisotropy": entry.get("anisotropy"),
            }
            for entry in manifest.get("inputs") or []
        ],
        "preprocessing": manifest.get("preprocessing") or [],
        "window": (manifest.get("inference") or {}).get("window"),
    }


def _outputs(manifest: dict[str, Any]) -> dict[str, Any]:
    output = manifest.get("output") or {}
    exclusive = manifest.get("task") == "classification" and output.get("activation") != "sigmoid"
    return {
        "labels": [
            {"number": label.get("number"), "name": label.get("name"), "unit": label.get("unit")}
            for label in manifest.get("labels") or []
        ],
        "exclusive": exclusive,
        "thresholds": manifests.thresholds(manifest) if output and not exclusive else {},
    }


def _network(manifest: dict[str, Any]) -> dict[str, Any]:
    if not manifest.get("network") and not manifest.get("members"):
        return {}
    specs = manifests.networks(manifest)
    return {
        "names": sorted({str(spec.get("name")) for spec in specs}),
        "members": len(specs),
        "dimensions": specs[0].get("dimensions"),
    }


def training_of(version: ModelVersion) -> dict[str, Any]:
    """On whom it learned, as far as that is known: of each training run, or in the bundle's own words."""
    told = {
        key: value
        for key, value in (version.manifest.get("training") or {}).items()
        if isinstance(value, str | int | float) and value != ""
    }
    numbers = ensembles.members_of(version.manifest) or [version.pk]
    runs = list(
        TrainingRun.objects.filter(version__in=numbers)
        .select_related("reference__cohort", "version__model")
        .order_by("pk")
    )
    if not runs:
        return {
            "known": False,
            "reason": "It was not trained here; what its bundle says stands below."
            if told
            else "It was not trained here, and its bundle says nothing of its training.",
            "told": told,
            "runs": [],
        }
    return {"known": True, "reason": "", "told": told, "runs": [_run(run) for run in runs]}


def _run(run: TrainingRun) -> dict[str, Any]:
    labelled = Case.objects.filter(cohort=run.reference.cohort_id, reference_labels__reference=run.reference_id)
    return {
        "version": str(run.version),
        "job": run.job_id,
        "cohort": run.reference.cohort.name,
        "cohort_digest": run.cohort_digest,
        "reference": str(run.reference),
        "reference_source": run.reference.get_source_display(),
        "seed": (run.config.get("training") or {}).get("seed"),
        "environment": {
            key: str(run.environment[key]) for key in ("device", "torch", "monai", "code") if run.environment.get(key)
        },
        "learned_from": composition(list(labelled.filter(cohort_patient__split=Split.TRAIN))),
        "chosen_by": composition(list(labelled.filter(cohort_patient__split=Split.VALIDATION))),
    }


def composition(cases: Sequence[Case]) -> dict[str, Any]:
    """Who the patients of these cases are. Ages in years at the study; sex as DICOM has it, by patients."""
    rows = list(
        Case.objects.filter(pk__in=[case.pk for case in cases]).select_related(
            "image", "study", "cohort_patient__patient"
        )
    )
    patients = {row.cohort_patient.patient_id: row.cohort_patient.patient for row in rows}
    ages: dict[int, float] = {}
    for row in rows:
        born, seen = row.cohort_patient.patient.patient_birth_date, row.study.study_date
        if born and seen and seen >= born:
            age = (seen - born).days / DAYS_OF_YEAR
            ages[row.cohort_patient.patient_id] = min(age, ages.get(row.cohort_patient.patient_id, age))
    sexes = Counter(patient.patient_sex or "" for patient in patients.values())
    years = sorted({row.study.study_date.year for row in rows if row.study.study_date})
    return {
        "cases": len(rows),
        "patients": len(patients),
        "synthetic": sum(row.study.synthetic for row in rows),
        "sex": {
            "female": sexes.pop("F", 0),
            "male": sexes.pop("M", 0),
            "other": sexes.pop("O", 0),
            "unknown": sum(sexes.values()),
        },
        "age": {
            "known": len(ages),
            "median": round(median(ages.values()), 1) if ages else None,
            "youngest": int(min(ages.values())) if ages else None,
            "oldest": int(max(ages.values())) if ages else None,
        },
        "modalities": dict(Counter(row.image.modality for row in rows if row.image.modality).most_common()),
        "scanners": sorted(overlap.scanners_of(rows)),
        "sites": sorted(overlap.institutions_of(rows)),
        "years": sorted({years[0], years[-1]}) if years else [],
    }


# Figures of an evaluation's summary in words, the telling ones first; others keep their key.
FIGURES = {
    "dice": "Dice",
    "auc": "AUC",
    "case_sensitivity": "Sensitivity by case",
    "case_specificity": "Specificity by case",
    "froc_score": "FROC score",
    "average_precision": "Average precision",
    "lesion_sensitivity": "Sensitivity by lesion, at the threshold",
    "false_positives_per_image": "False positives per image, at the threshold",
    "afroc": "AFROC",
    **{
        key: f"Sensitivity by lesion, at {rate:g} false positives per image"
        for key, rate in detection.RATE_KEYS.items()
    },
    "nsd": "Normalised surface Dice",
    "hd95_mm": "HD95, mm",
    "assd_mm": "Mean surface distance, mm",
    "volume_difference_ml": "Volume difference, mL",
}
LEFT_OUT = ("iou", "precision", "sensitivity", "specificity", "absolute_volume_difference_ml")


def results_of(version: ModelVersion, user: User) -> list[dict[str, Any]]:
    """Every finished evaluation, newest first: figures with interval, n and method; what is shared with training."""
    finished = (
        Evaluation.objects.visible_to(user)
        .filter(version=version, finished_at__isnull=False)
        .select_related("reference__cohort")
        .order_by("-finished_at")
    )
    labels = [label.get("name") for label in version.manifest.get("labels") or []]
    return [
        {
            "id": evaluation.pk,
            "cohort": evaluation.reference.cohort.name,
            "part": evaluation.get_split_display() if evaluation.split else "Every case",
            "reference": str(evaluation.reference),
            "reference_source": evaluation.reference.get_source_display(),
            "at": evaluation.finished_at.isoformat() if evaluation.finished_at else "",
            "shared": overlap.words(evaluation.overlap or {}),
            "shared_known": bool(evaluation.overlap) and evaluation.overlap.get("known") is not False,
            "matching": detection.MATCHING if version.manifest.get("task") == "detection" else "",
            "figures": _figures(evaluation.summary, labels),
        }
        for evaluation in finished
    ]


def _figures(summary: dict[str, Any], labels: Sequence[Any]) -> list[dict[str, Any]]:
    """In the order of the model's labels; JSON in the database keeps none."""
    rows = []
    known = [name for name in labels if name in summary]
    for structure in [*known, *(name for name in summary if name not in known)]:
        figures = summary[structure]
        order = sorted(figures, key=lambda key: list(FIGURES).index(key) if key in FIGURES else len(FIGURES))
        for key in order:
            entry = figures[key]
            if key in LEFT_OUT or not isinstance(entry, dict) or "estimate" not in entry:
                continue
            rows.append(
                {
                    "structure": structure,
                    "figure": FIGURES.get(key, key.replace("_", " ").capitalize()),
                    **{name: entry.get(name) for name in ("estimate", "lower", "upper", "n", "method", "reason")},
                }
            )
    return rows
