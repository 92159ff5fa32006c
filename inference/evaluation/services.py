"""Evaluating a version on a cohort; the only writers of evaluations and case results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import transaction
from django.utils import timezone

from inference.errors import EvaluationError
from inference.evaluation import classification, detection, overlap, summary
from inference.evaluation.models import CaseResult, Evaluation
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.prediction import results
from inference.prediction.models import Prediction
from inference.prediction.output import Finding
from inference.registry import manifest as manifests
from inference.registry.models import ModelVersion
from inference.training import cases, class_cases, detection_cases
from inference.training.services import find_reference
from portal.accounts.models import User
from studies.cohorts.models import Cohort, ReferenceLabel, ReferenceStandard, Split
from studies.volumes import load_image, load_masks, load_volume

logger = logging.getLogger(__name__)


def start(
    version: ModelVersion,
    cohort: Cohort,
    *,
    reference: ReferenceStandard | None = None,
    split: str = Split.TEST,
    priority: int = Job.Priority.NORMAL,
    by: User | None,
) -> Evaluation:
    """Write an evaluation down and queue its job. `split` empty means every case. Raises `EvaluationError`."""
    from inference.evaluation.tasks import evaluate  # the task module imports this one

    project = version.model.project
    reference = reference or find_reference(cohort)
    if cohort.project_id != project.pk or reference.cohort_id != cohort.pk:
        raise EvaluationError(
            f"The model belongs to the project {project.slug}; cohort or reference standard do not fit.",
            "Choose a cohort of the model's project and one of its reference standards.",
        )
    if split not in Split.values:
        raise EvaluationError(f"There is no split {split!r}.", "Choose train, validation, test, or nothing for all.")
    if split and not cohort.frozen:
        raise EvaluationError(
            f"The cohort “{cohort.name}” is not frozen, so it has no {split} patients.",
            "Freeze it, or evaluate on all of its cases.",
        )
    names = structures_of(version, reference)
    if not labelled_cases(reference, split, names):
        kinds = {ReferenceStandard.Kind.CLASSIFICATION: "class", ReferenceStandard.Kind.BOXES: "box"}
        what = kinds.get(ReferenceStandard.Kind(reference.kind), "segmentation")
        raise EvaluationError(
            f"“{reference}” has no {what} for a {split or 'single'} case of “{cohort.name}”.",
            "Choose another split or reference standard.",
        )
    with transaction.atomic():
        evaluation = Evaluation.objects.create(version=version, reference=reference, split=split, created_by=by)
        evaluation.job = submit(
            evaluate,
            project=project,
            title=f"Evaluate {version} on {cohort.name}" + (f" ({split})" if split else ""),
            parameters={"evaluation": evaluation.pk},
            by=by,
            priority=priority,
        )
        evaluation.save(update_fields=["job"])
    return evaluation


def structures_of(version: ModelVersion, reference: ReferenceStandard) -> list[str]:
    """The structures or classes that the model and the reference standard share. Raises `EvaluationError`."""
    if version.manifest["task"] == "regression":
        raise EvaluationError(
            "The model gives values; reference standards hold classes and segmentations, with which they cannot be "
            "compared.",
            "Evaluate a model that classifies or segments.",
        )
    classifies = version.manifest["task"] == "classification"
    if classifies != (reference.kind == ReferenceStandard.Kind.CLASSIFICATION):
        raise EvaluationError(
            f"The model gives {'classes' if classifies else 'segmentations'}, the reference standard “{reference}” "
            "does not.",
            "Choose a reference standard of the model's kind.",
        )
    if classifies:
        shared = [label["name"] for label in version.manifest["labels"] if label["name"] in reference.classes]
        if len(shared) < 2:
            raise EvaluationError(
                f"Model and reference standard “{reference}” share fewer than two classes.",
                "Choose a reference standard whose classes are named as the model's.",
            )
        return shared
    if reference.kind == ReferenceStandard.Kind.BOXES and version.manifest["task"] != "detection":
        raise EvaluationError(
            f"The reference standard “{reference}” holds boxes, the model gives segmentations.",
            "Choose a reference standard with segmentations.",
        )
    known = {label["name"].casefold() for label in reference.labels}
    names = [label["name"] for label in version.manifest["labels"]]
    shared = [name for name in names if name.casefold() in known]
    if not shared:
        raise EvaluationError(
            f"The model finds {', '.join(names)}; the reference standard “{reference}” holds "
            f"{', '.join(label['name'] for label in reference.labels) or 'no structures'}.",
            "Choose a reference standard whose structures are named as the model's.",
        )
    return shared


def labelled_cases(reference: ReferenceStandard, split: str, structures: Sequence[str]) -> list[ReferenceLabel]:
    """Cases with a segmentation, with one of the classes, or of which it is known where lesions are."""
    if reference.kind == ReferenceStandard.Kind.CLASSIFICATION:
        return class_cases.classified(reference, structures, split)
    if reference.kind == ReferenceStandard.Kind.BOXES:
        return detection_cases.located(reference, split)
    return cases.labelled_cases(reference, split)


def predictions_of(version: ModelVersion, entries: Sequence[ReferenceLabel]) -> dict[int, Prediction]:
    """Case → what the version said about its image, or about images of which it was one, where a model has several
    inputs. A segmentation is wanted of models that segment."""
    cases = {entry.case.image_id: entry.case_id for entry in entries}
    made = Prediction.objects.filter(version=version, study__in=[entry.case.study_id for entry in entries])
    if version.manifest["task"] == "segmentation":
        made = made.filter(segmentation__isnull=False)
    found: dict[int, Prediction] = {}
    for prediction in made.select_related("segmentation").order_by("pk"):
        for image in (prediction.image_id, *(told["series"] for told in prediction.inputs)):
            if image in cases:
                found.setdefault(cases[image], prediction)
    return found


def measure(
    version: ModelVersion, entry: ReferenceLabel, prediction: Prediction, structures: Sequence[str]
) -> dict[str, summary.CaseFigures]:
    """The figures of one case, for each structure. Raises `ImageError`."""
    labels = version.manifest["labels"]
    if version.manifest["task"] == "classification":
        decided = results.decided({name: prediction.scores[name] for name in structures}, version.manifest)
        return {
            name: summary.CaseFigures(
                case=entry.case.name,
                patient=entry.case.cohort_patient.patient_id,
                present=entry.values["class"] == name,
                predicted=decided[name],
                score=prediction.scores[name],
            )
            for name in structures
        }
    if version.manifest["task"] == "detection":
        return _measure_boxes(version, entry, prediction, structures)
    volume = load_volume(entry.case.image)
    truth = load_masks(entry.segmentation, volume, labels)  # type: ignore[arg-type]
    found = load_masks(prediction.segmentation, volume, labels)  # type: ignore[arg-type]
    masks = {
        label["name"]: pair for label, *pair in zip(labels, truth, found, strict=True) if label["name"] in structures
    }
    return summary.of_masks(
        entry.case.name,
        entry.case.cohort_patient.patient_id,
        masks,
        volume.spacing,
        scores=prediction.scores,
        limits=manifests.thresholds(version.manifest),
    )


def _measure_boxes(
    version: ModelVersion, entry: ReferenceLabel, prediction: Prediction, structures: Sequence[str]
) -> dict[str, summary.CaseFigures]:
    volume = load_image(entry.case.image)
    truth = detection_cases.lesions(entry, volume, entry.reference.labels)
    limits = manifests.thresholds(version.manifest)
    figures = {}
    for name in structures:
        lesions = [lesion.box(volume) for lesion in truth if lesion.label.casefold() == name.casefold()]
        found = [
            Finding(name, finding["score"], np.array(finding["corners"]))
            for finding in prediction.findings
            if finding["label"] == name
        ]
        scores = [finding.score for finding in found]
        boxes = np.array([finding.box(volume) for finding in found])
        figures[name] = summary.CaseFigures(
            case=entry.case.name,
            patient=entry.case.cohort_patient.patient_id,
            present=bool(lesions),
            predicted=max(scores, default=0.0) >= limits[name],
            score=max(scores, default=0.0),
            values=detection.compare(boxes, scores, np.array(lesions), limits[name]),
        )
    return figures


def finish(
    evaluation: Evaluation,
    measured: Sequence[tuple[ReferenceLabel, dict[str, summary.CaseFigures]]],
    failed: Sequence[dict[str, Any]],
    structures: Sequence[str],
) -> None:
    """Write case results and summary. Call it in the job's own transaction; a repeated job replaces its results."""
    evaluation.case_results.all().delete()
    CaseResult.objects.bulk_create(
        CaseResult(
            evaluation=evaluation,
            case=entry.case,
            structure=name,
            values=figure.values,
            present=figure.present,
            predicted=figure.predicted,
            score=figure.score,
        )
        for entry, figures in measured
        for name, figure in figures.items()
    )
    detects = evaluation.version.manifest["task"] == "detection"
    summarise = detection.summarise if detects else summary.summarise
    evaluation.summary = {name: summarise([figures[name] for _, figures in measured]) for name in structures}
    evaluation.overlap = {
        **overlap.with_training(evaluation.version, [entry.case for entry, _ in measured]),
        "cases": len(measured),
        "failed_cases": list(failed),
    }
    evaluation.finished_at = timezone.now()
    evaluation.save(update_fields=["summary", "overlap", "finished_at"])


def classes_of(evaluation: Evaluation) -> dict[str, Any] | None:
    """Accuracy, confusion matrix and pairwise AUC of an evaluated classifier, from its case results; None of others."""
    if evaluation.version.manifest["task"] != "classification":
        return None
    truth: dict[int, str] = {}
    patients: dict[int, int] = {}
    scores: dict[int, dict[str, float]] = {}
    for result in evaluation.case_results.select_related("case__cohort_patient").order_by("case_id"):
        scores.setdefault(result.case_id, {})[result.structure] = result.score or 0.0
        patients[result.case_id] = result.case.cohort_patient.patient_id
        if result.present:
            truth[result.case_id] = result.structure
    kept = sorted(truth)
    return classification.summarise(
        list(evaluation.summary),
        [truth[case] for case in kept],
        [scores[case] for case in kept],
        [patients[case] for case in kept],
    )


def headline_of(evaluation: Evaluation) -> str:
    """The figure that stands for the evaluation where there is room for one."""
    return "froc_score" if evaluation.version.manifest["task"] == "detection" else "dice"


def report(evaluation: Evaluation, *, user: User | None = None) -> dict[str, Any]:
    """The evaluation for a program to read: ids, summary with intervals, per-case values.

    user: leaves out the cases that this user may not see at the moment, such as those of an open blinded reading.
    """
    told: dict[str, dict[str, Any]] = {}
    results = evaluation.case_results.all() if user is None else evaluation.case_results.visible_to(user)
    for result in results.select_related("case__study").order_by("case__name", "structure"):
        entry = told.setdefault(
            result.case.name,
            {
                "case": result.case.name,
                "study": result.case.study_id,
                "study_instance_uid": result.case.study.study_instance_uid,
                "structures": {},
            },
        )
        entry["structures"][result.structure] = {
            **result.values,
            "present": result.present,
            "predicted": result.predicted,
            "score": result.score,
        }
    metric = headline_of(evaluation)
    return {
        "evaluation": evaluation.pk,
        "version": evaluation.version_id,
        "model": evaluation.version.model.name,
        "number": evaluation.version.number,
        "cohort": evaluation.reference.cohort.name,
        "reference": str(evaluation.reference),
        "reference_id": evaluation.reference_id,
        "split": evaluation.split or "all",
        "n": len(told),
        "structures": {
            name: {**figures[metric], "metric": metric, "mean": figures[metric]["estimate"]}
            for name, figures in evaluation.summary.items()
        },
        "summary": evaluation.summary,
        "classification": classes_of(evaluation),
        "overlap": evaluation.overlap,
        "cases": list(told.values()),
    }
