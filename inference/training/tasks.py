"""The training job."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from inference.evaluation import classification
from inference.jobs.run import Run
from inference.jobs.task import job_task, periodic
from inference.training import (
    cases,
    class_cases,
    crossvalidation,
    estimates,
    exporting,
    outlines,
    previews,
    services,
    sets,
)
from inference.training.config import Config, check
from inference.training.models import CrossValidation, TrainingRun
from studies.cohorts.models import ReferenceLabel, Split


@job_task(queue="train", max_attempts=3)
def train(run: Run) -> dict[str, Any]:
    """Load the cases, train, register the version. A second attempt goes on from the last checkpoint."""
    training = TrainingRun.objects.select_related("reference__cohort", "project", "created_by").get(
        pk=run.parameters["training_run"]
    )
    if training.version_id:
        return _result(training, {})
    cases.find_cohort(training.reference.cohort)
    services.note_environment(training)
    if (config := check(training.config)) != training.config:  # queued before an upgrade that brought new settings
        services.note_plan(training, config)
    loaded = sets.load(run, training.reference, training.config, note=partial(services.note_plan, training))
    if loaded.config["task"] == "classification":
        return _train_classifier(run, training, loaded)
    if loaded.config["task"] == "detection":
        return _train_detector(run, training, loaded)
    return _train_segmenter(run, training, loaded)


def _train_segmenter(run: Run, training: TrainingRun, loaded: sets.Sets) -> dict[str, Any]:
    from inference.training import members  # with torch, that other queues do not need

    made = members.train(
        loaded.config, loaded.names, loaded.training, loaded.validation, services.folder_of(training), run
    )
    trained = members.together(loaded.config, loaded.names, made, loaded.validation)
    run.log(f"Trained {trained.epochs} epochs, {trained.steps} steps in {trained.seconds:.0f} s")
    validation = {
        name: {**summary, "per_case": trained.validation[name]}
        for name, summary in services.validation_summary(trained).items()
    }
    with run.owned():
        version = services.finish(training, trained, loaded.labels, loaded.facts, members=made)
        result = _result(
            training,
            {"epochs": trained.epochs, "seconds": round(trained.seconds, 1), "validation_dice": validation},
        )
        run.finish(result)
    run_name = f"{version.model.name}:{version.number}"
    services.logger.info("training run %s made version %s", training.pk, run_name)
    return result


def _train_classifier(run: Run, training: TrainingRun, loaded: sets.Sets) -> dict[str, Any]:
    from inference.training import classifier

    config = loaded.config
    made = classifier.train(
        config,
        loaded.names,
        loaded.training,
        loaded.validation,
        services.folder_of(training),
        services.features_folder(),
        run,
    )
    more: dict[str, Any] = {
        "strategy": config["training"]["strategy"],
        "backbone_sha256": made.backbone,
        "weights": {key: value for key, value in made.loaded.items() if key != "loaded"},
        "validation": _judged(run, loaded, made.network),
        "validation_auc": {name: values[0] if values else None for name, values in made.trained.validation.items()},
    }
    facts = {**loaded.facts, "more": more}
    with run.owned():
        services.finish(training, made.trained, loaded.labels, facts)
        result = _result(training, {"epochs": made.trained.epochs, "seconds": round(made.trained.seconds, 1), **more})
        run.finish(result)
    return result


def _train_detector(run: Run, training: TrainingRun, loaded: sets.Sets) -> dict[str, Any]:
    from inference.training import detection

    trained = detection.train(
        loaded.config, loaded.names, loaded.training, loaded.validation, services.folder_of(training), run
    )
    run.log(f"Trained {trained.epochs} epochs, {trained.steps} steps in {trained.seconds:.0f} s")
    more: dict[str, Any] = {
        "validation_froc": {name: values[0] if values else None for name, values in trained.validation.items()}
    }
    with run.owned():
        services.finish(training, trained, loaded.labels, {**loaded.facts, "more": more})
        result = _result(training, {"epochs": trained.epochs, "seconds": round(trained.seconds, 1), **more})
        run.finish(result)
    return result


def _judged(run: Run, loaded: sets.Sets, network: Any) -> dict[str, Any]:
    """The validation cases with intervals; they also decided about early stopping."""
    from inference.training import classifier

    if not loaded.validation:
        return {}
    frozen = loaded.config["training"]["strategy"] == "frozen"
    kept = services.features_folder() if frozen else None
    shares = classifier.predict(network, loaded.validation, loaded.config, kept, run)
    entries = loaded.entries[Split.VALIDATION]
    return classification.summarise(
        loaded.names,
        [entry.values["class"] for entry in entries],
        [dict(zip(loaded.names, map(float, row), strict=True)) for row in shares],
        [entry.case.cohort_patient.patient_id for entry in entries],
    )


def _load_images(
    run: Run, entries: list[ReferenceLabel], config: Config, classes: list[str]
) -> dict[int, class_cases.ClassifiedCase]:
    loaded = 0

    def tick(name: str) -> None:
        nonlocal loaded
        run.check()
        loaded += 1
        run.progress(0, f"loading case {loaded} of {len(entries)}")

    return class_cases.load(entries, config, classes, tick=tick)


@job_task(queue="train", max_attempts=3)
def cross_validate(run: Run) -> dict[str, Any]:
    """Train and test in every round, and keep what was said about, or how well was outlined, each unseen case."""
    from inference.training.rounds import held_out

    started = time.monotonic()
    validation = CrossValidation.objects.select_related("reference__cohort").get(pk=run.parameters["cross_validation"])
    if validation.finished_at:
        return crossvalidation.report(validation)
    crossvalidation.note_environment(validation)
    config, cohort = check(validation.config), validation.reference.cohort
    if config["task"] == "segmentation":
        return _cross_validate_segmentation(run, validation)
    classes = class_cases.choose_classes(validation.reference, config["data"]["structures"])
    entries = class_cases.classified(validation.reference, classes)
    made = crossvalidation.rounds(config, cohort, entries)
    confounding = crossvalidation.confounding(config, cohort, entries, classes)
    if confounding.get("warning"):
        run.log(confounding["warning"], "warning")
    images = _load_images(run, entries, config, classes)
    found = held_out(
        config,
        classes,
        made,
        images,
        folder=crossvalidation.folder_of(validation),
        watcher=run,
        began=lambda scheme, name: crossvalidation.note_round(validation, scheme, name),
    )
    with run.owned():
        crossvalidation.finish(
            validation,
            classes,
            made,
            found,
            {"confounding": confounding, "seconds": round(time.monotonic() - started, 1)},
        )
        result = crossvalidation.report(validation)
        run.finish(result)
    return result


def _cross_validate_segmentation(run: Run, validation: CrossValidation) -> dict[str, Any]:
    """Round by round; a second attempt goes on within the round in which the first one ended."""
    from inference.training import outline_rounds
    from inference.training.parts import Part

    config, reference = check(validation.config), validation.reference
    labels = cases.choose_labels(reference, config["data"]["structures"])
    made = crossvalidation.rounds(config, reference.cohort, crossvalidation.entries_of(reference, config))
    work = [(scheme, part) for scheme, parts in made.items() for part in parts if not part.problem]
    images = outline_rounds.Images(labels)
    kept = crossvalidation.folder_of(validation)
    for number, (scheme, part) in enumerate(work, start=1):
        row = outlines.begin(validation, scheme, part.name)
        folder = kept / str(row.pk)
        if row.finished_at is None:
            crossvalidation.note_round(validation, scheme, part.name)
            judged = outline_rounds.judge(
                config,
                images,
                part,
                folder,
                Part(run, (number - 1) / len(work), 1 / len(work), f"round {number} of {len(work)}, {part.name}"),
                learned=check(row.config) if row.config else None,
                note=partial(outlines.note_learned, row),
            )
            with run.owned():
                outlines.keep(row, judged)
        outline_rounds.forget(folder)
    with run.owned():
        outlines.finish(validation, images.names, made)
        result = crossvalidation.report(validation)
        run.finish(result)
    outline_rounds.forget(kept)
    return result


@job_task(queue="io", max_attempts=3)
def export_run(run: Run) -> dict[str, Any]:
    """Parameters, curves, figures and files of a training run to the MLflow server."""
    runs = TrainingRun.objects.select_related("project", "job", "version__model", "reference__cohort")
    return exporting.export(runs.get(pk=run.parameters["training_run"]), run)


@job_task(queue="default", max_attempts=1, time_limit=180)
def preview_preprocessing(run: Run) -> dict[str, Any]:
    """Preprocessing steps on one series: figures of each step, and pictures that are kept for a day."""
    return previews.run(run)


@job_task(queue="default", max_attempts=2, time_limit=180)
def measure_network(run: Run) -> dict[str, Any]:
    """How much a network takes in training, for the estimate in the form."""
    return estimates.measure(run)


@periodic("inference.training.forget_previews")
def forget_previews() -> None:
    """Delete the pictures of old previews."""
    previews.forget_old()


def _result(training: TrainingRun, more: dict[str, Any]) -> dict[str, Any]:
    version = training.version
    assert version is not None
    return {
        "training_run": training.pk,
        "version": version.pk,
        "model": version.model.name,
        "number": version.number,
        **more,
    }
