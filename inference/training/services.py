"""Starting and finishing training runs; the only writers of `TrainingRun`."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.db import transaction

from inference.errors import TrainingError
from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.statistics.interval import undefined
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.jobs.task import JobTask
from inference.registry import bundle
from inference.registry import services as registry
from inference.registry.models import ModelVersion
from inference.training import cases, class_cases, detection_cases
from inference.training.config import Config, check
from inference.training.models import CrossValidation, TrainingRun
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort, ReferenceStandard, Split

if TYPE_CHECKING:  # torch and Lightning take seconds to load; pages that start a run do without
    from inference.training.fit import Trained

logger = logging.getLogger(__name__)
# A model takes voxels that are this many times more elongated than those of its training images.
ANISOTROPY = 1.5
Queued = TypeVar("Queued", TrainingRun, CrossValidation)


def find_cohort(project: Project, name: str) -> Cohort:
    """The project's cohort of that name (or id). Raises `TrainingError`."""
    found = project.cohorts.filter(name=name).first()
    if found is None and name.isdigit():
        found = project.cohorts.filter(pk=int(name)).first()
    if found is None:
        names = ", ".join(project.cohorts.order_by("name").values_list("name", flat=True)[:20])
        raise TrainingError(
            f"The project {project.slug} has no cohort {name!r}.", f"Cohorts: {names}." if names else "Make one first."
        )
    return found


def find_reference(cohort: Cohort, name: str = "") -> ReferenceStandard:
    """The newest reference standard of the cohort (of that name, or the one of that id). Raises `TrainingError`."""
    references = cohort.reference_standards.order_by("-id")
    found = references.filter(name=name).order_by("-version").first() if name else references.first()
    if found is None and name.isdigit():
        found = references.filter(pk=int(name)).first()
    if found is None:
        raise TrainingError(
            f"The cohort “{cohort.name}” has no reference standard{f' {name!r}' if name else ''}.",
            "Import masks, or freeze a campaign's consensus as reference standard.",
        )
    return found


def start(
    *,
    project: Project,
    config: Config,
    cohort: Cohort,
    reference: ReferenceStandard | None = None,
    name: str = "",
    priority: int = Job.Priority.NORMAL,
    by: User | None,
) -> TrainingRun:
    """Check what can be checked without reading pixels, write the run down and queue its job.

    config: anything that `inference.training.config.check` accepts. Raises `ConfigError` and `TrainingError`.
    """
    from inference.training.tasks import train  # the task module imports this one

    config, reference = prepared(project, config, cohort, reference)
    run = TrainingRun(
        project=project, name=(name or config["name"])[:120], config=config, reference=reference, created_by=by
    )
    return queue(run, train, f"Train {run.name} on {cohort.name}", "training_run", priority)


def prepared(
    project: Project, config: Config, cohort: Cohort, reference: ReferenceStandard | None
) -> tuple[Config, ReferenceStandard]:
    """What a run would start with, after every check that reads no pixels. Raises `ConfigError` and `TrainingError`."""
    config = check(config)
    reference = fitting_reference(project, cohort, reference, config)
    cases.find_cohort(cohort)
    if config["task"] == "classification":
        classes = class_cases.choose_classes(reference, config["data"]["structures"])
        labelled, what = class_cases.classified(reference, classes, Split.TRAIN), "class"
    elif config["task"] == "detection":
        cases.choose_labels(reference, config["data"]["structures"])
        labelled, what = detection_cases.located(reference, Split.TRAIN), "boxes or segmentation"
    else:
        cases.choose_labels(reference, config["data"]["structures"])
        labelled, what = cases.labelled_cases(reference, Split.TRAIN), "segmentation"
    if not labelled:
        raise TrainingError(
            f"The reference standard “{reference}” has no {what} for a training patient of “{cohort.name}”.",
            "Choose another reference standard, or freeze the cohort with another seed.",
        )
    return config, reference


def fitting_reference(
    project: Project, cohort: Cohort, reference: ReferenceStandard | None, config: Config
) -> ReferenceStandard:
    """The reference standard, or the one that the configuration names. Raises `TrainingError` where it does not fit."""
    reference = reference or find_reference(cohort, config["data"]["reference"])
    if cohort.project_id != project.pk or reference.cohort_id != cohort.pk:
        raise TrainingError("Cohort, reference standard and project do not belong together.", "Choose them anew.")
    return reference


def queue(made: Queued, task: JobTask, title: str, key: str, priority: int) -> Queued:
    """Write a run or a cross-validation down together with its job, which gets its number under `key`."""
    made.cohort_digest = made.reference.cohort.digest
    with transaction.atomic():
        made.save()
        made.job = submit(
            task,
            project=made.project,
            title=title,
            parameters={key: made.pk},
            by=made.created_by,
            priority=priority,
        )
        made.save(update_fields=["job"])
    return made


def folder_of(run: TrainingRun) -> Path:
    """Where the run keeps its checkpoint."""
    return Path(settings.MEDIA_ROOT) / "training" / str(run.pk)


def features_folder() -> Path:
    """Where features of frozen networks are kept; deleting it costs time alone."""
    return Path(settings.MEDIA_ROOT) / "training" / "features"


def environment() -> dict[str, Any]:
    """What the run ran on, for the record."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        **{package: installed(package) for package in ("torch", "monai", "lightning", "numpy")},
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "threads": len(os.sched_getaffinity(0)),
        "code": _commit(),
    }


def note_environment(run: TrainingRun) -> None:
    run.environment = environment()
    run.save(update_fields=["environment"])


def note_plan(run: TrainingRun, planned: Config) -> Config:
    """Write what a self-configuring network chose into the run, so that it can be repeated without planning."""
    run.config = check(planned)
    run.save(update_fields=["config"])
    return run.config


def finish(
    run: TrainingRun,
    trained: Trained,
    labels: list[dict[str, Any]],
    facts: dict[str, Any],
    *,
    members: Sequence[Trained] = (),
) -> ModelVersion:
    """Register the trained weights as the model's next version. Call it in the job's own transaction.

    facts: numbers of cases and patients, for the manifest. members: where several networks answer together, each of
    them; `trained` is then the whole.
    """
    manifest, weights = as_bundle(run.config, manifest_of(run, trained, labels, facts), trained, members)
    model = registry.create_model(
        project=run.project,
        name=run.config["name"],
        task=run.config["task"],
        by=run.created_by,
        description=run.config["description"],
    )
    made = registry.register_version(model, manifest, weights, by=run.created_by)
    run.version = made
    run.save(update_fields=["version"])
    return made


def as_bundle(
    config: Config, manifest: bundle.Manifest, trained: Trained, members: Sequence[Trained]
) -> tuple[bundle.Manifest, bundle.Weights]:
    """Manifest and weights of the trained network, or of the ensemble that several make."""
    if len(members) < 2:
        return manifest, trained.weights
    first = config["training"]["seed"]
    told = [
        {"network": config["network"], "seed": first + number, "epochs": one.epochs, "steps": one.steps}
        for number, one in enumerate(members)
    ]
    return {**manifest, "members": told}, [one.weights for one in members]


def manifest_of(
    run: TrainingRun, trained: Trained, labels: list[dict[str, Any]], facts: dict[str, Any]
) -> bundle.Manifest:
    config = run.config
    return {
        **manifest_of_config(config, labels, modality=facts["modality"], anisotropy=facts["anisotropy"]),
        "training": {
            "run": run.pk,
            "cohort": run.reference.cohort.name,
            "cohort_id": run.reference.cohort_id,
            "cohort_digest": run.cohort_digest,
            "reference": str(run.reference),
            "epochs": trained.epochs,
            "steps": trained.steps,
            "seconds": round(trained.seconds, 1),
            "precision": trained.precision,
            "environment": run.environment,
            **{key: facts[key] for key in ("training_cases", "training_patients", "validation_cases", "anisotropy")},
            **({"validation_dice": validation_summary(trained)} if config["task"] == "segmentation" else {}),
            **facts.get("more", {}),
        },
    }


def manifest_of_config(
    config: Config, labels: list[dict[str, Any]], *, modality: Sequence[str], anisotropy: float
) -> bundle.Manifest:
    """What a bundle says about how its network is used; modality and anisotropy: of the training images."""
    detects = config["task"] == "detection"
    asked = ["window", "overlap", "mirror", "shifts", *(["least"] if detects else [])]
    return {
        "format": bundle.FORMAT,
        "task": config["task"],
        "name": config["name"],
        "description": config["description"],
        "inputs": [
            {
                "name": "image",
                "modality": list(modality),
                "smallest": [(n + 1) // 2 for n in config["training"]["patch"]]
                if config["task"] != "classification"
                else [1, 2, 2],
                "anisotropy": round(ANISOTROPY * anisotropy, 2),
            }
        ],
        "preprocessing": config["preprocessing"],
        "network": config["network"],
        "labels": labels,
        "output": {"activation": "sigmoid" if detects else "softmax", "threshold": config["inference"]["threshold"]},
        "inference": {key: config["inference"][key] for key in asked},
        "card": {"intended_use": config["description"]},
    }


def validation_summary(trained: Trained) -> dict[str, Any]:
    """Mean validation Dice of each structure with its interval; the cases also decided nothing but the curve."""
    return {
        name: bootstrap_mean(values, seed=0).as_dict() if values else undefined("no case shows it")
        for name, values in trained.validation.items()
    }


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return installed("readroom") if _is_installed() else "unknown"
    return found.stdout.strip()


def _is_installed() -> bool:
    try:
        installed("readroom")
    except ModuleNotFoundError:
        return False
    return True
