"""The learning-rate range test: the rate rises from step to step, and the loss says where learning begins and ends.

Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017 (arXiv:1506.01186), section 3.3. The rate that is
suggested is the one at which the smoothed loss falls fastest over the logarithm of the rate.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np

from inference.errors import TrainingError
from inference.training import classifier
from inference.training.config import Config
from inference.training.data import SegmentationData
from inference.training.fit import Watcher, trainer_for
from inference.training.module import Clock, LossError, SegmentationModule, TrainingModule
from inference.training.sets import Sets

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
SMOOTHING = 0.9  # share of the earlier mean
DIVERGED = 4.0  # times the smallest smoothed loss
LEAST_STEPS = 12
LEAST_GAIN = 0.02  # of the first loss; less is no learning


@dataclass(frozen=True)
class Found:
    """rates: of each step; losses: of its batch; smoothed: exponential mean. suggested: None with a reason in words."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggested: float | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def range_test(sets: Sets, config: Config, watcher: Watcher, *, steps: int = STEPS) -> Found:
    """Train for at most `steps` steps while the rate rises; nothing of it is kept. Raises `TrainingError`."""
    module, data = _fresh(sets, config)
    rates = list(np.geomspace(LOWEST, HIGHEST, steps))
    module.schedule = lambda step: rates[min(step, steps - 1)]
    sweep = _Sweep(watcher, data, rates)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `fit`: hints for notebooks
        trainer = trainer_for(
            {**config["training"], "epochs": -1},
            [sweep],
            validates=False,
            max_steps=steps,
            default_root_dir=folder,
        )
        try:
            trainer.fit(module, datamodule=data)
        except LossError:
            watcher.log(f"The loss is no number any more from rate {rates[len(sweep.losses)]:.3g}")
    losses = sweep.losses
    smoothed = smooth(losses)
    suggested, reason = suggest(rates[: len(losses)], smoothed)
    return Found(rates[: len(losses)], losses, smoothed, suggested, reason)


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential mean without the bias of its start."""
    made, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        made.append(mean / (1 - SMOOTHING**step))
    return made


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, str]:
    """The rate of steepest descent before the smallest loss, or None with a reason."""
    if len(smoothed) < LEAST_STEPS:
        return None, f"The loss ran away after {len(smoothed)} steps: normalise the images, or look at the loss."
    values = np.asarray(smoothed, dtype=float)
    skipped = max(1, len(values) // 20)  # the mean has not settled
    lowest = int(values[skipped:].argmin()) + skipped
    if lowest <= skipped + 1 or values[skipped] - values[lowest] < LEAST_GAIN * abs(values[skipped]):
        return None, "The loss never fell: look at the labels, the preprocessing and the loss before the rate."
    slopes = np.gradient(values, np.log(np.asarray(rates, dtype=float)))
    steepest = int(slopes[skipped : lowest + 1].argmin()) + skipped
    return float(f"{rates[steepest]:.3g}"), ""


def _fresh(sets: Sets, config: Config) -> tuple[TrainingModule, Any]:
    endless = Clock(10**12, 0)
    if config["task"] == "segmentation":
        return SegmentationModule(config, sets.names, endless), SegmentationData(sets.training, [], config["training"])
    if config["task"] == "classification":
        network, _, _ = classifier.build(config, len(sets.names))
        return classifier.ClassificationModule(
            config, sets.names, network, sets.training, endless
        ), classifier.ClassificationData(sets.training, [], config)
    raise TrainingError(f"The range test does not know the task {config['task']}.", "Set the learning rate by hand.")


class _Sweep(pl.Callback):
    def __init__(self, watcher: Watcher, data: Any, rates: Sequence[float]) -> None:
        self.watcher, self.data, self.rates = watcher, data, rates
        self.losses: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.data.set_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.watcher.check()
        self.losses.append(float(module.last_loss))
        step = len(self.losses)
        self.watcher.progress(step / len(self.rates), f"step {step} of at most {len(self.rates)}")
        smoothed = smooth(self.losses)
        if step >= LEAST_STEPS and (smoothed[-1] > DIVERGED * min(smoothed) or not math.isfinite(smoothed[-1])):
            trainer.should_stop = True
