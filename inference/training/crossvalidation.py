"""Cross-validations: a network, of a classifier with classical baselines, in rounds over a frozen cohort. The only
writers of `CrossValidation` and `HeldOutPrediction`; what is kept of a segmentation's rounds is in `outlines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from inference.errors import TrainingError
from inference.evaluation import classification
from inference.evaluation.statistics.interval import undefined
from inference.evaluation.statistics.paired import holm
from inference.imaging import preprocessing
from inference.jobs.models import Job
from inference.training import cases, class_cases, partitions
from inference.training.config import TITLES, Config, check
from inference.training.models import CrossValidation, HeldOutPrediction
from inference.training.partitions import Round
from inference.training.services import environment, fitting_reference, queue
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort, ReferenceLabel, ReferenceStandard

SCHEMES = {"folds": "by fold", "sources": "leaving one source out"}


def start(
    *,
    project: Project,
    config: Config,
    cohort: Cohort,
    reference: ReferenceStandard | None = None,
    name: str = "",
    priority: int = Job.Priority.NORMAL,
    by: User | None,
) -> CrossValidation:
    """Check what can be checked without reading pixels, write it down and queue its job.

    Raises `ConfigError` and `TrainingError`.
    """
    from inference.training.tasks import cross_validate  # the task module imports this one

    config, reference = prepared(project, config, cohort, reference)
    made = CrossValidation(
        project=project, name=(name or config["name"])[:120], config=config, reference=reference, created_by=by
    )
    return queue(made, cross_validate, f"Cross-validate {made.name} on {cohort.name}", "cross_validation", priority)


def prepared(
    project: Project, config: Config, cohort: Cohort, reference: ReferenceStandard | None
) -> tuple[Config, ReferenceStandard]:
    """What a cross-validation would start with, after every check that reads no pixels.

    Raises `ConfigError` and `TrainingError`.
    """
    config = check(config)
    if config["task"] == "detection":
        raise TrainingError(
            "Cross-validation is for segmentation and classification.", "Train the detector and evaluate it instead."
        )
    reference = fitting_reference(project, cohort, reference, config)
    if not cohort.frozen:
        raise TrainingError(
            f"The cohort “{cohort.name}” is not frozen, so it has no folds yet.", "Freeze it in folds on its page."
        )
    if not config["cross_validation"]["schemes"]:
        raise TrainingError("No rounds are chosen.", "Set cross_validation.schemes to folds, sources or both.")
    if config["task"] == "segmentation":
        config = check({**config, "preprocessing": preprocessing.without_scales(config["preprocessing"])})
    elif preprocessing.unfitted(config["preprocessing"]) is not None:
        raise TrainingError(
            "The step nyul has no scale, and one scale for all rounds would have seen the patients of every test.",
            "Use another normalisation in a cross-validation, such as the step percentile.",
        )
    made = rounds(config, cohort, entries_of(reference, config))
    every = [part for parts in made.values() for part in parts]
    if config["task"] == "segmentation" and all(part.problem for part in every):
        raise TrainingError(
            f"No round could be judged: of {every[0].name}, {every[0].problem}.",
            "Choose a reference standard with segmentations of patients in two folds or more.",
        )
    return config, reference


def entries_of(reference: ReferenceStandard, config: Config) -> list[ReferenceLabel]:
    """The cases that the rounds are made of. Raises `TrainingError`."""
    wanted = config["data"]["structures"]
    if config["task"] == "classification":
        return class_cases.classified(reference, class_cases.choose_classes(reference, wanted))
    cases.choose_labels(reference, wanted)
    return cases.labelled_cases(reference)


def rounds(config: Config, cohort: Cohort, entries: Sequence[ReferenceLabel]) -> dict[str, list[Round]]:
    """The rounds of each scheme. Raises `TrainingError`."""
    settings = config["cross_validation"]
    lacks = class_cases.one_class_alone if config["task"] == "classification" else _nothing_to_learn_from
    made = {}
    for scheme in settings["schemes"]:
        made[scheme] = (
            partitions.by_fold(entries, partitions.folds_of(cohort), lacks)
            if scheme == "folds"
            else partitions.by_source(cohort, entries, settings["source"], lacks)
        )
    return made


def _nothing_to_learn_from(training: Sequence[ReferenceLabel]) -> str:
    return "" if training else "there is no training case"


def note_environment(validation: CrossValidation) -> None:
    validation.environment = environment()
    validation.save(update_fields=["environment"])


def note_round(validation: CrossValidation, scheme: str, name: str) -> None:
    """Say which round is under way; the ones before it are done. `finish` replaces it by the results."""
    # An attempt that lost its job must not overwrite what another one finished.
    CrossValidation.objects.filter(pk=validation.pk, finished_at=None).update(summary={"round": [scheme, name]})


def folder_of(validation: CrossValidation) -> Path:
    """Where the rounds keep their checkpoints."""
    return Path(settings.MEDIA_ROOT) / "training" / f"cross-validation-{validation.pk}"


def confounding(
    config: Config, cohort: Cohort, entries: Sequence[ReferenceLabel], classes: list[str]
) -> dict[str, Any]:
    """How far class and source go together; empty where no source is named."""
    source = config["cross_validation"]["source"]
    if not source:
        return {}
    sources = partitions.sources_of(cohort, source)
    known = [entry for entry in entries if entry.case_id in sources]
    return classification.confounding(
        [entry.values["class"] for entry in known], [sources[entry.case_id] for entry in known], classes
    )


def finish(
    validation: CrossValidation,
    classes: Sequence[str],
    made: Mapping[str, Sequence[Round]],
    found: Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]],
    more: Mapping[str, Any],
) -> None:
    """Write predictions and summary. Call it in the job's own transaction; a repeated job replaces its results.

    found: (scheme, method) → case id → class → probability.
    """
    validation.predictions.all().delete()
    rows: list[HeldOutPrediction] = []
    schemes: dict[str, Any] = {}
    for scheme, parts in made.items():
        entries = {entry.case_id: (part.name, entry) for part in parts for entry in part.test}
        methods: dict[str, Any] = {}
        for (where, method), of_case in found.items():
            if where != scheme:
                continue
            chosen = [entries[case] for case in of_case]
            rows += [
                HeldOutPrediction(
                    cross_validation=validation,
                    case=entry.case,
                    scheme=scheme,
                    method=method,
                    round=name,
                    truth=entry.values["class"],
                    probabilities={key: round(value, 6) for key, value in of_case[entry.case_id].items()},
                )
                for name, entry in chosen
            ]
            methods[method] = {
                **_summary(classes, [entry for _, entry in chosen], of_case),
                "rounds": {
                    part.name: _summary(classes, [e for e in part.test if e.case_id in of_case], of_case)
                    for part in parts
                    if not part.problem
                },
            }
        schemes[scheme] = {
            "title": SCHEMES[scheme],
            "methods": methods,
            "against": _against(scheme, classes, parts, found),
            "rounds": [
                {
                    "name": part.name,
                    "training": len(part.training),
                    "test": len(part.test),
                    "test_patients": part.test_patients,
                    "unseen": sorted(
                        {e.values["class"] for e in part.test} - {e.values["class"] for e in part.training}
                    ),
                    "problem": part.problem,
                }
                for part in parts
            ],
        }
    HeldOutPrediction.objects.bulk_create(rows, batch_size=2000)
    validation.summary = {"classes": list(classes), "schemes": schemes, **more}
    validation.finished_at = timezone.now()
    validation.save(update_fields=["summary", "finished_at"])


def _summary(
    classes: Sequence[str], entries: Sequence[ReferenceLabel], of_case: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    return classification.summarise(
        classes,
        [entry.values["class"] for entry in entries],
        [of_case[entry.case_id] for entry in entries],
        [entry.case.cohort_patient.patient_id for entry in entries],
    )


def _against(
    scheme: str,
    classes: Sequence[str],
    parts: Sequence[Round],
    found: Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]],
) -> dict[str, dict[str, Any]]:
    """Network minus each baseline on the same cases, and p-values adjusted for the number of baselines (Holm).

    {"folds" or name of the round: {method: comparison}}: what is compared is what one table shows, see `tables`.
    """
    network = found.get((scheme, "network"))
    if not network:
        return {}
    groups = {part.name: part.test for part in parts if not part.problem}
    if scheme == "folds":
        groups = {scheme: [entry for test in groups.values() for entry in test]}
    made: dict[str, dict[str, Any]] = {}
    for name, entries in groups.items():
        made[name] = {
            method: classification.compare(
                classes,
                [entry.values["class"] for entry in entries],
                [network[entry.case_id] for entry in entries],
                [of_case[entry.case_id] for entry in entries],
                [entry.case.cohort_patient.patient_id for entry in entries],
            )
            for (where, method), of_case in found.items()
            if where == scheme and method != "network"
        }
        _adjust([comparison["accuracy"] for comparison in made[name].values()])
        for place in range(len(classes) * (len(classes) - 1) // 2):
            _adjust([comparison["pairs"][place]["auc"] for comparison in made[name].values()])
    return made


def _adjust(comparisons: Sequence[dict[str, Any]]) -> None:
    tested = [entry for entry in comparisons if entry["p"] is not None]
    for entry, value in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = value


def tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What can be compared with each other: all folds together, but each left-out source by itself.

    Models that learned from different sources give scores on different scales, so their cases are not pooled. Each
    table has a title, its rounds, [(method, figures)] and [(method, network minus method)] in a fixed order, which JSON
    in the database does not keep.
    """
    made = []
    for scheme in SCHEMES:
        found = summary["schemes"].get(scheme)
        if not found:
            continue
        methods = [(name, found["methods"][name]) for name in TITLES if name in found["methods"]]
        against = found.get("against", {})
        if scheme == "folds":
            made.append(
                {
                    "scheme": scheme,
                    "title": found["title"],
                    "rounds": found["rounds"],
                    "methods": methods,
                    "against": _ordered(against.get(scheme, {})),
                }
            )
            continue
        for part in found["rounds"]:
            judged = [
                (name, _of_learned(figures["rounds"][part["name"]], part["unseen"]))
                for name, figures in methods
                if not part["problem"]
            ]
            compared = [
                (method, _comparable(entry, part["unseen"]))
                for method, entry in _ordered(against.get(part["name"], {}))
            ]
            made.append(
                {"scheme": scheme, "title": part["name"], "rounds": [part], "methods": judged, "against": compared}
            )
    return made


def _ordered(of_method: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, of_method[name]) for name in TITLES if name in of_method]


def _comparable(comparison: dict[str, Any], unseen: Sequence[str]) -> dict[str, Any]:
    pairs = [
        {**pair, "auc": {**undefined(f"{name} was never seen in training"), "p": None}}
        if (name := next((name for name in pair["classes"] if name in unseen), ""))
        else pair
        for pair in comparison["pairs"]
    ]
    return {**comparison, "pairs": pairs}


def _of_learned(figures: dict[str, Any], unseen: Sequence[str]) -> dict[str, Any]:
    """The figures without the areas of classes that the models of this round never saw: their scores say nothing."""
    pairs = [
        {**pair, "auc": undefined(f"{name} was never seen in training")}
        if (name := next((name for name in pair["classes"] if name in unseen), ""))
        else pair
        for pair in figures["pairs"]
    ]
    classes = {
        name: {**entry, "auc": undefined("never seen in training")} if name in unseen else entry
        for name, entry in figures["classes"].items()
    }
    return {**figures, "pairs": pairs, "classes": classes}


def report(validation: CrossValidation) -> dict[str, Any]:
    """For a program to read."""
    return {
        "cross_validation": validation.pk,
        "name": validation.name,
        "cohort": validation.reference.cohort.name,
        "reference": str(validation.reference),
        **(validation.summary if validation.finished_at else {}),
    }
