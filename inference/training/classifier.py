"""Training a classifier: a last layer on frozen features, or the whole network from fresh or loaded weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from inference.errors import TrainingError
from inference.evaluation.statistics.roc import auc
from inference.networks import adaptation, table, weights
from inference.training import heads, losses
from inference.training.class_cases import ClassifiedCase
from inference.training.config import Config
from inference.training.data import EpochSampler
from inference.training.features import extract
from inference.training.fit import Trained, Watcher, run_fit
from inference.training.module import Clock, TrainingModule


@dataclass(frozen=True)
class TrainedClassifier:
    """network: on the CPU, in evaluation mode. backbone: digest of all but the last layer. loaded: report of
    the weights that it started with."""

    network: nn.Module
    trained: Trained
    backbone: str
    loaded: dict[str, Any]


def build(config: Config, classes: int) -> tuple[nn.Module, dict[str, Any], str]:
    """The network with the weights that training starts from, their report as a dictionary and in words."""
    spec, settings = config["network"], config["training"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        network = table.build(
            spec["name"],
            dimensions=spec["dimensions"],
            in_channels=1,
            out_channels=classes,
            parameters=spec["parameters"],
        )
    if settings["strategy"] == "scratch":
        return network, {}, "All weights start fresh."
    report = weights.load(network, spec["name"], settings["weights"])
    return network, report.as_dict(), report.words()


def train(
    config: Config,
    classes: Sequence[str],
    training: Sequence[ClassifiedCase],
    validation: Sequence[ClassifiedCase],
    folder: Path,
    kept: Path,
    watcher: Watcher,
) -> TrainedClassifier:
    """folder: of the run's checkpoint. kept: of features. Raises `TrainingError`."""
    check_cases(training, classes)
    network, report, words = build(config, len(classes))
    watcher.log(words)
    if config["training"]["strategy"] == "frozen":
        trained = _fit_head(config, classes, network, training, validation, kept, watcher)
    else:
        data = ClassificationData(training, validation, config)
        module = ClassificationModule(
            config,
            classes,
            network,
            training,
            Clock(data.steps_per_epoch() * config["training"]["epochs"], config["training"]["max_minutes"]),
        )
        trained = run_fit(config, module, data, folder, watcher)
        network.load_state_dict(trained.weights)
    head, _ = adaptation.head_of(network)
    return TrainedClassifier(network.eval(), trained, weights.digest(network, without=head), report)


def check_cases(training: Sequence[ClassifiedCase], classes: Sequence[str]) -> None:
    """Raise `TrainingError` where nothing could be learned."""
    seen = {case.number for case in training}
    if len(seen) < 2:
        only = ", ".join(classes[number] for number in sorted(seen)) or "no class"
        raise TrainingError(
            f"The {len(training)} training cases show {only} alone.", "Train on a cohort with cases of two classes."
        )


def _fit_head(
    config: Config,
    classes: Sequence[str],
    network: nn.Module,
    training: Sequence[ClassifiedCase],
    validation: Sequence[ClassifiedCase],
    kept: Path,
    watcher: Watcher,
) -> Trained:
    """The backbone is read, never written: its digest is compared afterwards."""
    started = time.monotonic()
    name, head = adaptation.head_of(network)
    before = weights.digest(network, without=name)

    def tick(done: int) -> None:
        watcher.check()
        watcher.progress(0.9 * done / max(1, len(training)), f"features of image {done + 1} of {len(training)}")

    rows = extract(network, [shaped(case, config) for case in training], kept, tick=tick)
    weight, bias = heads.linear_layer(
        rows,
        np.array([case.number for case in training]),
        len(classes),
        regularisation=config["training"]["regularisation"],
        balanced=config["training"]["class_weights"] == "balanced",
    )
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    if weights.digest(network, without=name) != before:
        raise TrainingError("The frozen backbone has changed.", "This is a fault of the portal: report it.")
    found = predict(network, validation, config, kept, watcher) if validation else np.zeros((0, len(classes)))
    return Trained(
        weights={key: value.detach().clone().contiguous() for key, value in network.state_dict().items()},
        epochs=1,
        steps=1,
        seconds=time.monotonic() - started,
        validation=areas(classes, [case.number for case in validation], found),
        train_loss=float("nan"),
        precision="32-true",
    )


def predict(
    network: nn.Module, cases: Sequence[ClassifiedCase], config: Config, kept: Path | None, watcher: Watcher
) -> np.ndarray:
    """Class probabilities [cases, classes]. kept: folder of features, where the backbone is a frozen one."""
    network.eval()
    _, head = adaptation.head_of(network)
    images = [shaped(case, config) for case in cases]
    with torch.inference_mode():
        if kept is not None:
            rows = torch.from_numpy(extract(network, images, kept, tick=lambda done: watcher.check()))
            return torch.softmax(head(rows), dim=1).numpy()
        found = []
        for start in range(0, len(images), 16):
            watcher.check()
            found.append(torch.softmax(network(torch.stack(images[start : start + 16])).float(), dim=1).numpy())
    return np.concatenate(found) if found else np.zeros((0, head.out_features))


def shaped(case: ClassifiedCase, config: Config) -> Tensor:
    """[1, y, x] for a network in 2-D, [1, z, y, x] for one in 3-D."""
    return case.image[:, 0] if config["network"]["dimensions"] == 2 else case.image


def areas(classes: Sequence[str], truth: Sequence[int], found: np.ndarray) -> dict[str, list[float]]:
    """AUC of each class against the others; empty where all or no cases are of the class."""
    made: dict[str, list[float]] = {}
    for number, name in enumerate(classes):
        positive = [value == number for value in truth]
        made[name] = [auc(positive, found[:, number].tolist())] if any(positive) and not all(positive) else []
    return made


class Images(Dataset[dict[str, Tensor]]):
    def __init__(self, cases: Sequence[ClassifiedCase]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        case = self.cases[place]
        return {"image": case.image, "number": torch.tensor(case.number)}


class ClassificationData(pl.LightningDataModule):
    """Every case once in an epoch, in an order that seed and epoch decide."""

    def __init__(
        self, training: Sequence[ClassifiedCase], validation: Sequence[ClassifiedCase], config: Config
    ) -> None:
        super().__init__()
        self.training, self.validation = list(training), list(validation)
        self.batch = min(config["training"]["batch_size"], len(self.training))
        self.order = EpochSampler(len(self.training), config["training"]["seed"])

    def steps_per_epoch(self) -> int:
        return len(self.training) // self.batch

    def set_epoch(self, epoch: int) -> None:
        self.order.epoch = epoch

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Images(self.training), batch_size=self.batch, sampler=self.order, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Images(self.validation), batch_size=self.batch)


class ClassificationModule(TrainingModule):
    """The backbone learns at `backbone_rate` of the last layer's rate where its weights were loaded."""

    figure = "auc"

    def __init__(
        self,
        config: Config,
        classes: Sequence[str],
        network: nn.Module,
        training: Sequence[ClassifiedCase],
        clock: Clock,
    ) -> None:
        if config["network"]["dimensions"] == 2:  # a third faster on a CPU
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(config, list(classes), network, clock)
        numbers = torch.tensor([case.number for case in training])
        balanced = self.settings["class_weights"] == "balanced"
        self.class_weights: Tensor
        self.register_buffer(
            "class_weights", losses.class_weights(numbers, len(classes)) if balanced else torch.ones(len(classes))
        )
        self.loss: Callable[[Tensor, Tensor, Tensor], Tensor] = losses.LOSSES[self.settings["loss"]]
        self._truth: list[int] = []
        self._found: list[np.ndarray] = []

    def rates(self) -> list[dict[str, Any]]:
        head, last = adaptation.head_of(self.network)
        if self.settings["strategy"] != "transfer":
            return super().rates()
        backbone = [value for name, value in self.network.named_parameters() if not name.startswith(f"{head}.")]
        return [
            {"params": backbone, "share": self.settings["backbone_rate"]},
            {"params": list(last.parameters()), "share": 1.0},
        ]

    def loss_of(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        images = batch["image"]
        with torch.no_grad():
            images, _ = self.augment(images, torch.zeros_like(images), generator)
        return self.loss(self.logits(self.network, images).float(), batch["number"], self.class_weights)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images[:, :, 0] if self.config["network"]["dimensions"] == 2 else images)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._truth, self._found = [], []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self.as_in_use():
            share = torch.softmax(self.logits(self.averaged, batch["image"]), dim=1)
        self._found.append(share.cpu().numpy())
        self._truth += batch["number"].tolist()
        self.validation = areas(self.structures, self._truth, np.concatenate(self._found))
