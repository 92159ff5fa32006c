"""The training job."""

from __future__ import annotations

import time
from typing import Any

from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.training import cases, class_cases, crossvalidation, services
from inference.training.config import Config, planned
from inference.training.models import CrossValidation, TrainingRun
from studies.cohorts.models import ReferenceLabel, Split


@job_task(queue="train", max_attempts=3)
def train(run: Run) -> dict[str, Any]:
    """Load the cases, train, register the version. A second attempt goes on from the last checkpoint."""
    from inference.training.data import SegmentationData, check_cases  # with torch, that other queues do not need
    from inference.training.fit import fit

    training = TrainingRun.objects.select_related("reference__cohort", "project", "created_by").get(
        pk=run.parameters["training_run"]
    )
    if training.version_id:
        return _result(training, {})
    config = training.config
    cases.find_cohort(training.reference.cohort)
    services.note_environment(training)
    if config["task"] == "classification":
        return _train_classifier(run, training)
    labels = cases.choose_labels(training.reference, config["data"]["structures"])
    structures = [label["name"] for label in labels]
    sides = {split: cases.labelled_cases(training.reference, split) for split in (Split.TRAIN, Split.VALIDATION)}
    if planned(config):
        config = services.note_plan(training, cases.plan(sides[Split.TRAIN], config, len(labels), run))
    total = sum(len(entries) for entries in sides.values())
    loaded = 0

    def tick(name: str) -> None:
        nonlocal loaded
        run.check()
        loaded += 1
        run.progress(0, f"loading case {loaded} of {total}")

    prepared = {split: cases.load_cases(entries, config, labels, tick=tick) for split, entries in sides.items()}
    facts = _facts(config, sides)
    run.log(
        f"{facts['training_cases']} training cases of {facts['training_patients']} patients, "
        f"{facts['validation_cases']} validation cases; structures: {', '.join(structures)}"
    )
    for warning in check_cases(
        prepared[Split.TRAIN], prepared[Split.VALIDATION], patch=config["training"]["patch"], structures=structures
    ):
        run.log(warning, "warning")
    data = SegmentationData(prepared[Split.TRAIN], prepared[Split.VALIDATION], config["training"])
    trained = fit(config, structures, data, services.folder_of(training), run)
    run.log(f"Trained {trained.epochs} epochs, {trained.steps} steps in {trained.seconds:.0f} s")
    validation = {
        name: {**summary, "per_case": trained.validation[name]}
        for name, summary in services.validation_summary(trained).items()
    }
    with run.owned():
        version = services.finish(training, trained, labels, facts)
        result = _result(
            training,
            {"epochs": trained.epochs, "seconds": round(trained.seconds, 1), "validation_dice": validation},
        )
        run.finish(result)
    run_name = f"{version.model.name}:{version.number}"
    services.logger.info("training run %s made version %s", training.pk, run_name)
    return result


def _facts(config: Config, sides: dict[Split, list[ReferenceLabel]]) -> dict[str, Any]:
    """What the manifest says about the cases."""
    return {
        "modality": config["data"]["modality"] or sorted({entry.case.image.modality for entry in sides[Split.TRAIN]}),
        "training_cases": len(sides[Split.TRAIN]),
        "training_patients": len({entry.case.cohort_patient_id for entry in sides[Split.TRAIN]}),
        "validation_cases": len(sides[Split.VALIDATION]),
    }


def _train_classifier(run: Run, training: TrainingRun) -> dict[str, Any]:
    from inference.training import classifier

    config = training.config
    classes = class_cases.choose_classes(training.reference, config["data"]["structures"])
    sides = {
        split: class_cases.classified(training.reference, classes, split) for split in (Split.TRAIN, Split.VALIDATION)
    }
    prepared = _load_images(run, [entry for entries in sides.values() for entry in entries], config, classes)
    images = {split: [prepared[entry.case_id] for entry in entries] for split, entries in sides.items()}
    facts = _facts(config, sides)
    run.log(f"{facts['training_cases']} training cases of {facts['training_patients']} patients: {', '.join(classes)}")
    made = classifier.train(
        config,
        classes,
        images[Split.TRAIN],
        images[Split.VALIDATION],
        services.folder_of(training),
        services.features_folder(),
        run,
    )
    more: dict[str, Any] = {
        "strategy": config["training"]["strategy"],
        "backbone_sha256": made.backbone,
        "weights": {key: value for key, value in made.loaded.items() if key != "loaded"},
        "validation_auc": {name: values[0] if values else None for name, values in made.trained.validation.items()},
    }
    facts["more"] = more
    labels = [{"number": number, "name": name} for number, name in enumerate(classes, start=1)]
    with run.owned():
        services.finish(training, made.trained, labels, facts)
        result = _result(training, {"epochs": made.trained.epochs, "seconds": round(made.trained.seconds, 1), **more})
        run.finish(result)
    return result


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
    """Train and test the classifier and the baselines in every round, and keep what each said about unseen patients."""
    from inference.training.rounds import held_out

    started = time.monotonic()
    validation = CrossValidation.objects.select_related("reference__cohort").get(pk=run.parameters["cross_validation"])
    if validation.finished_at:
        return crossvalidation.report(validation)
    crossvalidation.note_environment(validation)
    config, cohort = validation.config, validation.reference.cohort
    classes = class_cases.choose_classes(validation.reference, config["data"]["structures"])
    entries = class_cases.classified(validation.reference, classes)
    made = crossvalidation.rounds(config, cohort, entries)
    confounding = crossvalidation.confounding(config, cohort, entries, classes)
    if confounding.get("warning"):
        run.log(confounding["warning"], "warning")
    images = _load_images(run, entries, config, classes)
    found = held_out(config, classes, made, images, folder=crossvalidation.folder_of(validation), watcher=run)
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
