"""What a fit works on: the cases of the training and the validation patients, prepared. Test patients are never read.

Everything that is learned from images before a fit (a network's plan, a histogram's scale) is learned here, from the
training patients alone, and written into the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.imaging import preprocessing
from inference.training import cases, class_cases, detection_cases
from inference.training.config import Config, planned
from studies.cohorts.models import ReferenceLabel, ReferenceStandard, Split

if TYPE_CHECKING:
    from inference.jobs.run import Run


@dataclass(frozen=True)
class Sets:
    """config: complete. labels: as the manifest has them, names in the order of the outputs. training, validation:
    `PreparedCase`s, or `ClassifiedCase`s of a classifier. facts: numbers of cases and patients, for the manifest."""

    config: Config
    labels: list[dict[str, Any]]
    training: list[Any]
    validation: list[Any]
    entries: dict[str, list[ReferenceLabel]]
    facts: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return [label["name"] for label in self.labels]


def load(run: Run, reference: ReferenceStandard, config: Config, *, note: Callable[[Config], Config]) -> Sets:
    """note: called with a configuration that was completed from the training images, to write it down; what it returns
    is used. Raises `TrainingError`, with words, where nothing can be learned from these cases."""
    classifies, detects = config["task"] == "classification", config["task"] == "detection"
    if classifies:
        classes = class_cases.choose_classes(reference, config["data"]["structures"])
        labels: list[dict[str, Any]] = [{"number": n, "name": name} for n, name in enumerate(classes, start=1)]
    else:
        labels = cases.choose_labels(reference, config["data"]["structures"])
    sides = {side: entries(reference, config, side) for side in (Split.TRAIN, Split.VALIDATION)}
    training = sides[Split.TRAIN]
    if planned(config):
        config = note(cases.plan(training, config, len(labels), run))
    if preprocessing.unfitted(config["preprocessing"]) is not None:
        config = note(cases.fit_scales(training, config, run))
    facts = _facts(config, sides)
    for warning in preprocessing.unsuited(config["preprocessing"], _modalities(sides)):
        run.log(warning, "warning")
    run.log(
        f"{facts['training_cases']} training cases of {facts['training_patients']} patients, "
        f"{facts['validation_cases']} validation cases; {'classes' if classifies else 'structures'}: "
        + ", ".join(label["name"] for label in labels)
    )
    total, loaded = sum(len(side) for side in sides.values()), 0

    def tick(name: str) -> None:
        nonlocal loaded
        run.check()
        loaded += 1
        run.progress(0, f"loading case {loaded} of {total}")

    if classifies:
        found = class_cases.load([entry for side in sides.values() for entry in side], config, classes, tick=tick)
        prepared: dict[str, list[Any]] = {
            name: [found[entry.case_id] for entry in side] for name, side in sides.items()
        }
    else:
        load_cases = detection_cases.load_cases if detects else cases.load_cases
        prepared = {name: load_cases(side, config, labels, tick=tick) for name, side in sides.items()}
    facts["anisotropy"] = max(case.anisotropy for case in prepared[Split.TRAIN])
    made = Sets(
        config, labels, prepared[Split.TRAIN], prepared[Split.VALIDATION], {str(s): e for s, e in sides.items()}, facts
    )
    for warning in check(made):
        run.log(warning, "warning")
    return made


def entries(reference: ReferenceStandard, config: Config, side: str) -> list[ReferenceLabel]:
    """The cases of one side of the split from which the task can learn. Raises `TrainingError`."""
    if config["task"] == "classification":
        return class_cases.classified(
            reference, class_cases.choose_classes(reference, config["data"]["structures"]), side
        )
    chosen = detection_cases.located if config["task"] == "detection" else cases.labelled_cases
    return chosen(reference, side)


def check(sets: Sets) -> list[str]:
    """Warnings for the log. Raises `TrainingError` where nothing could be learned."""
    if sets.config["task"] == "classification":
        class_cases.check_classes(sets.training, sets.names)
        return []
    # With torch, that other queues do not need.
    if sets.config["task"] == "detection":
        from inference.training.detection import check_cases
    else:
        from inference.training.data import check_cases
    return check_cases(sets.training, sets.validation, patch=sets.config["training"]["patch"], structures=sets.names)


def _modalities(sides: dict[Any, list[ReferenceLabel]]) -> list[str]:
    return sorted({entry.case.image.modality for side in sides.values() for entry in side})


def _facts(config: Config, sides: dict[Any, list[ReferenceLabel]]) -> dict[str, Any]:
    """What the manifest says about the cases."""
    training: Sequence[ReferenceLabel] = sides[Split.TRAIN]
    return {
        "modality": config["data"]["modality"] or sorted({entry.case.image.modality for entry in training}),
        "training_cases": len(training),
        "training_patients": len({entry.case.cohort_patient_id for entry in training}),
        "validation_cases": len(sides[Split.VALIDATION]),
    }
