"""The training job."""

from __future__ import annotations

from typing import Any

from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.training import cases, services
from inference.training.config import planned
from inference.training.models import TrainingRun
from studies.cohorts.models import Split


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
    facts = {
        "modality": config["data"]["modality"] or sorted({entry.case.image.modality for entry in sides[Split.TRAIN]}),
        "training_cases": len(sides[Split.TRAIN]),
        "training_patients": len({entry.case.cohort_patient_id for entry in sides[Split.TRAIN]}),
        "validation_cases": len(sides[Split.VALIDATION]),
    }
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
