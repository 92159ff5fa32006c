"""Training a one-stage detector: patches with the boxes of the lesions that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.errors import TrainingError
from inference.evaluation.metrics.detection import Marks, match, mean_sensitivity
from inference.imaging.boxes import of_numbers
from inference.networks import detector, table
from inference.networks.detection import detect
from inference.training.config import Config
from inference.training.data import PreparedCase, SegmentationData, check_sizes
from inference.training.fit import Trained, Watcher, run_fit
from inference.training.module import Clock, TrainingModule


def train(
    config: Config,
    names: Sequence[str],
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    folder: Path,
    watcher: Watcher,
) -> Trained:
    """Cases as `detection_cases.load_case` makes them. See `fit.fit`; goes on from a checkpoint as that does."""
    return train_and_look(config, names, training, validation, folder, watcher)[0]


def train_and_look(
    config: Config,
    names: Sequence[str],
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    folder: Path,
    watcher: Watcher,
) -> tuple[Trained, dict[str, list[Marks]]]:
    """As `train`; beside it what the last validation found of each label in each validation case, in their order."""
    data = SegmentationData(training, validation, config["training"])
    clock = Clock(data.steps_per_epoch() * config["training"]["epochs"], config["training"]["max_minutes"])
    module = DetectionModule(config, list(names), clock)
    trained = run_fit(config, module, data, folder, watcher)
    return trained, module.marks


def check_cases(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], *, patch: Sequence[int], structures: list[str]
) -> list[str]:
    """Warnings for the log. Raises `TrainingError` where nothing could be learned from these cases."""
    sizes, seen = _lesions(training, structures)
    absent = [name for name, count in zip(structures, seen, strict=True) if not count]
    if absent:
        raise TrainingError(
            f"None of the {len(training)} training cases shows a lesion of {', '.join(absent)}.",
            "Leave it out with data.structures, or freeze the cohort with another seed.",
        )
    counted = ", ".join(f"{count} of {name}" for name, count in zip(structures, seen, strict=True))
    without = sum(not case.labels.any() for case in training)
    warnings = check_sizes(training, validation, patch=patch)
    if min(seen) < 20:
        warnings.append(f"Few lesions to learn from: {counted} in {len(training)} cases, {without} without any")
    cell, flat = detector.STRIDES[0], patch[0] == 1
    tiny = int((sizes[:, int(flat) :].max(axis=1) < cell).sum())
    if tiny:
        warnings.append(
            f"{tiny} of {len(sizes)} lesions are smaller than {cell} voxels after preprocessing, a cell of the "
            "network's finest map, so each is learned by one cell alone: add a step resample with a finer spacing"
        )
    if left_out := sum(case.left_out for case in [*training, *validation]):
        warnings.append(f"Lesions in parts of the images that a preprocessing step cuts away, left out: {left_out}")
    unseen = [name for name, count in zip(structures, _lesions(validation, structures)[1], strict=True) if not count]
    if validation and unseen:
        warnings.append(
            f"None of the {len(validation)} validation cases shows a lesion of {', '.join(unseen)}: there will be no "
            "validation curve of it, and training.early_stopping cannot look at it"
        )
    return warnings


def _lesions(cases: Sequence[PreparedCase], structures: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Sizes [n, 3] of all lesions in voxels (z, y, x), and how many each label has."""
    sizes, seen = [], [0] * len(structures)
    for case in cases:
        for value, box in of_numbers(case.labels.numpy()).items():
            sizes.append(box[1] - box[0])
            seen[class_of(value, len(structures))] += 1
    return np.array(sizes).reshape(-1, 3), seen


def class_of(value: int, classes: int) -> int:
    """Of a value in the map of lesions; see `detection_cases.load_case`."""
    return (value - 1) % classes


def boxes_of(labels: Tensor, classes: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Boxes [n, 2 · dimensions] in the detector's pixels and classes [n] of a map of lesions [z, y, x]."""
    found = of_numbers(labels.numpy())
    boxes = np.array(list(found.values())).reshape(-1, 2, 3)[:, :, 3 - dimensions :] + 0.5
    numbers = [class_of(value, classes) for value in found]
    return torch.from_numpy(boxes.reshape(len(boxes), 2 * dimensions)).float(), torch.tensor(numbers, dtype=torch.long)


class DetectionModule(TrainingModule):
    """structures: labels in the order of the outputs; the validation figure is each label's FROC score."""

    figure = "froc"

    def __init__(self, config: Mapping[str, Any], structures: list[str], clock: Clock) -> None:
        spec = config["network"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["training"]["seed"])
            network = table.build(
                spec["name"],
                dimensions=spec["dimensions"],
                in_channels=1,
                out_channels=len(structures),
                parameters=spec["parameters"],
            )
        super().__init__(config, structures, network, clock)
        self.dimensions: int = spec["dimensions"]
        self._marks: list[list[Marks]] = []

    @property
    def marks(self) -> dict[str, list[Marks]]:
        """Of each label and validation case, as the last validation saw them."""
        return dict(zip(self.structures, self._marks or [[] for _ in self.structures], strict=True))

    def loss_of(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            images, labels = self.augment(batch["image"], batch["labels"], generator)
            truth = [boxes_of(row[0].cpu(), len(self.structures), self.dimensions) for row in labels]
        answers = self.network(images[:, :, 0] if self.dimensions == 2 else images)
        return detector.loss(
            [level.float() for level in answers],
            [boxes.to(images.device) for boxes, _ in truth],
            [numbers.to(images.device) for _, numbers in truth],
        )

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._marks = [[] for _ in self.structures]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self.as_in_use():
            found = detect([self.averaged], batch["image"][0], self.config["inference"])
        lesions = of_numbers(batch["labels"][0, 0].cpu().numpy())
        for number, name in enumerate(self.structures):
            mine = found.numbers == number
            truth = [box for value, box in lesions.items() if class_of(value, len(self.structures)) == number]
            self._marks[number].append(
                match(found.boxes[mine], found.scores[mine].tolist(), np.array(truth).reshape(-1, 2, 3))
            )
            if any(marks.lesions for marks in self._marks[number]):
                self.validation[name] = [mean_sensitivity(self._marks[number])]
