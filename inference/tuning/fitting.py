"""One fit with the settings of a trial, judged on the validation patients; writes nothing but its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import TrainingError
from inference.evaluation import classification
from inference.evaluation.detection import froc_score
from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.statistics.interval import undefined
from inference.training import classifier, detection
from inference.training.config import Config
from inference.training.data import SegmentationData
from inference.training.fit import Trained, Watcher, fit
from inference.training.sets import Sets
from studies.cohorts.models import Split

SEED = 0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """value: mean of the figures; figures: structure, class or label → Dice, AUC or FROC score with interval, on the
    validation cases."""

    value: float
    figures: dict[str, Any]
    epochs: int
    seconds: float


class GivenUp(Exception):
    """The trial is not worth more time."""


class TrialWatcher:
    """Follows one fit: its share of the progress bar, and the mean of each validation, which may end it."""

    def __init__(self, watcher: Watcher, number: int, trials: int, judge: Callable[[int, float], bool]) -> None:
        """judge: (epoch, mean validation figure) → whether to give up."""
        self.watcher, self.number, self.trials, self.judge = watcher, number, trials, judge
        self._open: dict[int, list[float]] = {}

    def log(self, text: str) -> None:
        self.watcher.log(f"Trial {self.number}: {text}")

    def progress(self, fraction: float, text: str = "") -> None:
        place = f"trial {self.number} of {self.trials}"
        self.watcher.progress((self.number - 1 + fraction) / self.trials, f"{place}, {text}")

    def metric(self, name: str, step: int, value: float) -> None:
        if name.startswith("val_"):
            self._open.setdefault(step, []).append(value)

    def check(self) -> None:
        self.watcher.check()
        # A validation reports its structures one by one; it is whole when the fit goes on.
        while self._open:
            step = min(self._open)
            values = self._open.pop(step)
            if self.judge(step, sum(values) / len(values)):
                raise GivenUp


def judge(sets: Sets, config: Config, folder: Path, kept: Path, watcher: Watcher) -> Judged:
    """Train on the training cases and look at the validation cases. Raises `TrainingError`, and what the watcher does.

    folder: of the checkpoint, from which an interrupted trial goes on. kept: of features of frozen networks.
    """
    started = time.monotonic()
    trained, figures = JUDGES[config["task"]](sets, config, folder, kept, watcher)
    known = [entry["estimate"] for entry in figures.values() if entry.get("estimate") is not None]
    if not known:
        raise TrainingError(
            "The validation patients give no figure: none shows what is learned, or all show the same class.",
            "Freeze a cohort with more validation patients.",
        )
    return Judged(sum(known) / len(known), figures, trained.epochs, time.monotonic() - started)


def _segmentation(sets: Sets, config: Config, folder: Path, kept: Path, watcher: Watcher) -> tuple[Trained, Figures]:
    data = SegmentationData(sets.training, sets.validation, config["training"])
    trained = fit(config, sets.names, data, folder, watcher)
    return trained, {
        name: bootstrap_mean(values, seed=SEED).as_dict() if values else undefined("no validation case shows it")
        for name, values in trained.validation.items()
    }


def _classification(sets: Sets, config: Config, folder: Path, kept: Path, watcher: Watcher) -> tuple[Trained, Figures]:
    names = sets.names
    made = classifier.train(config, names, sets.training, sets.validation, folder, kept, watcher)
    frozen = kept if config["training"]["strategy"] == "frozen" else None
    found = classifier.predict(made.network, sets.validation, config, frozen, watcher)
    summary = classification.summarise(
        names,
        [names[case.number] for case in sets.validation],
        [dict(zip(names, map(float, row), strict=True)) for row in found],
        [entry.case.cohort_patient_id for entry in sets.entries[Split.VALIDATION]],
    )
    return made.trained, {name: summary["classes"][name]["auc"] for name in names}


def _detection(sets: Sets, config: Config, folder: Path, kept: Path, watcher: Watcher) -> tuple[Trained, Figures]:
    trained, marks = detection.train_and_look(config, sets.names, sets.training, sets.validation, folder, watcher)
    patients = [entry.case.cohort_patient_id for entry in sets.entries[Split.VALIDATION]]
    return trained, {name: froc_score(marks[name], patients) for name in sets.names}


JUDGES: dict[str, Callable[[Sets, Config, Path, Path, Watcher], tuple[Trained, Figures]]] = {
    "segmentation": _segmentation,
    "classification": _classification,
    "detection": _detection,
}
