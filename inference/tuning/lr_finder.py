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
from scipy.ndimage import gaussian_filter1d

from inference.errors import LossError
from inference.training import classifier
from inference.training.config import Config
from inference.training.data import SegmentationData
from inference.training.detection import DetectionModule
from inference.training.fit import Watcher, check_memory, trainer_for
from inference.training.module import Clock, SegmentationModule, TrainingModule
from inference.training.sets import Sets

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
WIDTH = 1 / 30  # standard deviation of the smoothing, as share of all steps
MEMORY = 0.9  # share of the earlier mean, in the running mean that ends the test
DIVERGED = 4.0  # times the smallest running mean
LEAST_STEPS = 12
LEAST_GAIN = 0.02  # of the first loss; less is no learning


@dataclass(frozen=True)
class Found:
    """rates: of each step; losses: of its batch; smoothed: mean of the steps around it.
    suggested: None with a reason in words."""

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
    batch = min(config["training"]["batch_size"], len(data.train_dataloader().dataset))
    check_memory(module, batch, config["training"], watcher)
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
    """Gaussian mean of the steps on both sides; a mean of earlier steps alone would lag behind the rate."""
    if not losses:
        return []
    return [float(v) for v in gaussian_filter1d(np.asarray(losses, float), max(1, len(losses) * WIDTH), mode="nearest")]


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, str]:
    """The rate of steepest descent before the smallest loss, or None with a reason."""
    if len(smoothed) < LEAST_STEPS:
        return None, f"The loss ran away after {len(smoothed)} steps: normalise the images, or look at the loss."
    values = np.asarray(smoothed, dtype=float)
    skipped = max(1, len(values) // 20)  # the mean has few steps on its left there
    lowest = int(values[skipped:].argmin()) + skipped
    if lowest <= skipped + 1 or values[skipped] - values[lowest] < LEAST_GAIN * abs(values[skipped]):
        return None, "The loss never fell: look at the labels, the preprocessing and the loss before the rate."
    slopes = np.gradient(values, np.log(np.asarray(rates, dtype=float)))
    steepest = int(slopes[skipped : lowest + 1].argmin()) + skipped
    return float(f"{rates[steepest]:.3g}"), ""


def _fresh(sets: Sets, config: Config) -> tuple[TrainingModule, Any]:
    endless = Clock(10**12, 0)
    if config["task"] == "classification":
        network, _, _ = classifier.build(config, len(sets.names))
        return classifier.ClassificationModule(
            config, sets.names, network, sets.training, endless
        ), classifier.ClassificationData(sets.training, [], config)
    module = DetectionModule if config["task"] == "detection" else SegmentationModule
    return module(config, sets.names, endless), SegmentationData(sets.training, [], config["training"])


class _Sweep(pl.Callback):
    def __init__(self, watcher: Watcher, data: Any, rates: Sequence[float]) -> None:
        self.watcher, self.data, self.rates = watcher, data, rates
        self.losses: list[float] = []
        self._mean, self._least = 0.0, math.inf

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.data.set_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.watcher.check()
        self.losses.append(float(module.last_loss))
        step = len(self.losses)
        self.watcher.progress(step / len(self.rates), f"step {step} of at most {len(self.rates)}")
        self._mean = MEMORY * self._mean + (1 - MEMORY) * self.losses[-1]
        running = self._mean / (1 - MEMORY**step)  # without the bias of its start
        self._least = min(self._least, running)
        if step >= LEAST_STEPS and running > DIVERGED * self._least:
            trainer.should_stop = True
