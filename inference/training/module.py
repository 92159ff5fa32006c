"""The Lightning modules: loss, optimiser, schedule, averaged weights, early stopping, validation figures."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, TverskyLoss
from torch import Tensor, nn

from inference.errors import LossError
from inference.evaluation.metrics.overlap import dice
from inference.imaging.augmentation import Augmentation
from inference.networks import table
from inference.networks.sliding_window import probabilities, slicewise


class Clock:
    """How much of the training is done: by steps, or by time where a time budget ends it earlier.

    Without a budget the fraction depends on the step alone, and so do the trained weights.
    """

    def __init__(self, total_steps: int, max_minutes: float) -> None:
        self.total_steps, self.budget = total_steps, max_minutes * 60
        self.before = 0.0  # seconds of earlier attempts
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def fraction(self, step: int) -> float:
        by_steps = step / max(1, self.total_steps)
        by_time = self.elapsed / self.budget if self.budget else 0.0
        return min(1.0, max(by_steps, by_time))


def learning_rate(peak: float, fraction: float, warmup: float) -> float:
    """Linear rise during `warmup`, then half a cosine down to a thousandth of the peak."""
    if fraction < warmup:
        return peak * max(fraction / warmup, 1e-2)
    rest = (fraction - warmup) / (1 - warmup)
    return peak * max(0.5 * (1 + math.cos(math.pi * rest)), 1e-3)


class TrainingModule(pl.LightningModule):
    """What trainings share: optimiser, schedule, averaged weights, early stopping.

    config: as checked by inference.training.config; structures: names of what is learned, in the order of the outputs.
    """

    figure = "dice"  # of the validation, on whose mean early stopping looks; higher is better

    def __init__(self, config: Mapping[str, Any], structures: list[str], network: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.config, self.settings, self.structures = config, config["training"], structures
        self.clock, self.network = clock, network
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        self.augment = Augmentation(config["augmentation"])
        self.validation: dict[str, list[float]] = {}
        self._losses: list[float] = []
        self.best: float | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.waited = 0  # validations since the best one
        self.schedule: Callable[[int], float] | None = None  # step → learning rate, in place of the cosine

    def loss_of(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def as_in_use(self) -> torch.autocast:
        """A block in which validation computes with float32, as inference does, whatever the steps use."""
        return torch.autocast(self.device.type, enabled=False)

    def rates(self) -> list[dict[str, Any]]:
        """Groups of parameters with their `share` of the learning rate."""
        return [{"params": list(self.network.parameters()), "share": 1.0}]

    def note_validation(self) -> None:
        """Keep the best weights where early stopping is on, and stop where nothing was gained for long."""
        means = [sum(values) / len(values) for values in self.validation.values() if values]
        if not self.settings["early_stopping"] or not means:
            return
        value = sum(means) / len(means)
        gained = self.best is None or value > self.best
        if gained or value == self.best:  # of equals the longer trained one
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        if gained:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            if self.waited >= self.settings["early_stopping"]:
                self.trainer.should_stop = True

    def final_weights(self) -> dict[str, Tensor]:
        """The best ones where early stopping is on, else the averaged ones."""
        return self.best_weights or self.averaged.state_dict()

    def train(self, mode: bool = True) -> TrainingModule:
        super().train(mode)
        self.averaged.eval()
        return self

    @property
    def train_loss(self) -> float:
        """Mean loss of the epoch so far."""
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    @property
    def last_loss(self) -> float | None:
        return self._losses[-1] if self._losses else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.rates(), lr=self.settings["learning_rate"], weight_decay=self.settings["weight_decay"]
        )

    def on_fit_start(self) -> None:
        self.clock.start()

    def on_train_epoch_start(self) -> None:
        self._losses = []
        # Dropout draws from torch's own state; what was drawn before must not matter to a resumed run.
        torch.manual_seed(_mix(self.settings["seed"], self.current_epoch, self.global_rank))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        rate = (
            self.schedule(self.global_step)
            if self.schedule
            else learning_rate(
                self.settings["learning_rate"], self.clock.fraction(self.global_step), self.settings["warmup"]
            )
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["share"]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(
            _mix(self.settings["seed"] + 1, self.current_epoch, batch_idx, self.global_rank)
        )
        loss = self.loss_of(batch, generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LossError(
                f"The loss is not a number any more (epoch {self.current_epoch + 1}, step {self.global_step}).",
                "Train again with other settings: a lower training.learning_rate, or a training.gradient_clip. "
                "With the same settings it ends at the same step.",
            )
        self._losses.append(value)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        decay = self.settings["averaging"]
        # Early on the average follows quickly, or the random start would stay in it for long.
        decay = min(decay, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            current = self.network.state_dict()
            for name, value in self.averaged.state_dict().items():
                if value.dtype.is_floating_point and decay > 0:
                    value.lerp_(current[name], 1 - decay)
                else:
                    value.copy_(current[name])
        if self.clock.fraction(self.global_step) >= 1:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        self.validation = {name: [] for name in self.structures}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elapsed_seconds"] = self.clock.elapsed
        checkpoint["early_stopping"] = {"best": self.best, "waited": self.waited, "weights": self.best_weights}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.clock.before = float(checkpoint["elapsed_seconds"])
        kept = checkpoint["early_stopping"]
        self.best, self.waited, self.best_weights = kept["best"], kept["waited"], kept["weights"]


class SegmentationModule(TrainingModule):
    """structures: names in the order of the label numbers 1, 2, …; the validation figure is each case's Dice."""

    def __init__(self, config: Mapping[str, Any], structures: list[str], clock: Clock) -> None:
        spec = config["network"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["training"]["seed"])
            network = table.build(
                spec["name"],
                dimensions=spec["dimensions"],
                in_channels=1,
                out_channels=len(structures) + 1,
                parameters=spec["parameters"],
            )
        if spec["dimensions"] == 3:
            network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        super().__init__(config, structures, network, clock)
        self.loss = LOSSES[self.settings["loss"]]()

    def loss_of(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            images, labels = self.augment(batch["image"], batch["labels"], generator)
        logits = slicewise(self.network, images, self.config["network"]["dimensions"])
        return self.loss(logits.float(), labels.long())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self.as_in_use():
            found = probabilities(self.averaged, batch["image"][0], self.config["inference"]).argmax(0).cpu().numpy()
        truth = batch["labels"][0, 0].cpu().numpy()
        for number, name in enumerate(self.structures, start=1):
            value = dice(truth == number, found == number)
            if value is not None:
                self.validation[name].append(value)


class _CrossEntropy(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels[:, 0])


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "dice_ce": lambda: DiceCELoss(to_onehot_y=True, softmax=True),
    "dice": lambda: DiceLoss(to_onehot_y=True, softmax=True, include_background=False),
    "cross_entropy": lambda: _CrossEntropy(),
    "focal": lambda: FocalLoss(to_onehot_y=True, use_softmax=True),
    "tversky": lambda: TverskyLoss(to_onehot_y=True, softmax=True, include_background=False, alpha=0.3, beta=0.7),
}


def _mix(*numbers: int) -> int:
    """One seed out of several numbers, so that neighbours do not share streams."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 0x9E3779B9) % (2**63 - 1)
    return seed
