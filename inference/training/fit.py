"""One Lightning fit with checkpoints that survive a kill."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning.pytorch as pl
import psutil
import torch
from torch import Tensor

from inference.errors import TrainingError
from inference.networks.memory import training_bytes
from inference.training.config import Config
from inference.training.data import SegmentationData
from inference.training.module import Clock, SegmentationModule, TrainingModule
from portal.runtime.allocator import memory_kept
from portal.runtime.kernel import available_memory

CHECKPOINT = "last.ckpt"
MEMORY = "memory_gb"  # metric: the most memory that training took until then, GB of 2^30 bytes
WORDS = {"32-true": "float32", "16-mixed": "float16 and float32", "bf16-mixed": "bfloat16 and float32"}
FIGURES = {"dice": "Dice", "auc": "AUC", "froc": "FROC score"}
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Watcher(Protocol):
    """Who follows a fit; a job's `Run` in the portal."""

    def log(self, text: str) -> None: ...
    def progress(self, fraction: float, text: str = "") -> None: ...
    def metric(self, name: str, step: int, value: float) -> None: ...
    def check(self) -> None: ...


@dataclass(frozen=True)
class Trained:
    """weights: what the bundle gets (averaged where averaging is on); validation: Dice
    per structure and case, AUC per class, or FROC score per label; precision: as Lightning names it."""

    weights: dict[str, Tensor]
    epochs: int
    steps: int
    seconds: float
    validation: dict[str, list[float]]
    train_loss: float
    precision: str


def fit(config: Config, structures: list[str], data: SegmentationData, folder: Path, watcher: Watcher) -> Trained:
    """Train until the epochs or the minutes are over; goes on from the checkpoint in `folder` where there is one.

    Whatever `watcher.check()` raises passes through; the last checkpoint stays. Raises `TrainingError`.
    """
    settings = config["training"]
    clock = Clock(data.steps_per_epoch() * settings["epochs"], settings["max_minutes"])
    module = SegmentationModule(config, structures, clock)
    return run_fit(config, module, data, folder, watcher)


def run_fit(config: Config, module: TrainingModule, data: Any, folder: Path, watcher: Watcher) -> Trained:
    """data: a data module with `training`, `validation` and `set_epoch`. See `fit`."""
    settings = config["training"]
    use_all_cores()
    check_memory(module, min(settings["batch_size"], len(data.train_dataloader().dataset)), settings, watcher)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    report = _Report(watcher, data, folder)
    if settings["precision"] == "bfloat16" and not has_bfloat16():
        watcher.log("There are no instructions for bfloat16 here, so it would be slower: float32 is used")
    with warnings.catch_warnings(), memory_kept():
        warnings.simplefilter("ignore")  # hints for notebooks: data loader workers, deprecated internals
        trainer = trainer_for(settings, [report], validates=bool(data.validation))
        watcher.log(f"Computing with {WORDS[str(trainer.precision)]} on {place()}")
        if checkpoint.exists():
            epoch = int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"])
            watcher.log(f"Going on from the checkpoint after epoch {epoch + 1}")
            trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint), weights_only=True)
        else:
            trainer.fit(module, datamodule=data)
        if data.validation and report.validated_epoch != report.epochs:
            trainer.validate(module, datamodule=data, verbose=False)  # the report is told by the trainer
    return Trained(
        # Cloned, as some networks name a tensor twice and safetensors stores no tensor under two names.
        weights={key: value.detach().cpu().contiguous().clone() for key, value in module.final_weights().items()},
        epochs=report.epochs,
        steps=trainer.global_step,
        seconds=module.clock.elapsed,
        validation=module.validation,
        train_loss=module.train_loss,
        precision=str(trainer.precision),
    )


def trainer_for(
    settings: Mapping[str, Any], callbacks: list[pl.Callback], *, validates: bool, **more: Any
) -> pl.Trainer:
    """settings: the section `training` of a configuration. more: what else the trainer takes."""
    cuda = torch.cuda.is_available()
    return pl.Trainer(
        accelerator="auto",
        devices="auto" if cuda else 1,
        strategy="ddp" if cuda and torch.cuda.device_count() > 1 else "auto",
        precision=precision(settings["precision"]),
        max_epochs=settings["epochs"],
        gradient_clip_val=settings["gradient_clip"] or None,
        check_val_every_n_epoch=settings["validate_every"],
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=cuda and torch.cuda.device_count() > 1,
        reload_dataloaders_every_n_epochs=0,
        callbacks=callbacks,
        **more,
    )


def precision(wanted: str) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """What a step computes with: sums and weights are float32 in every case."""
    if wanted == "bfloat16" and has_bfloat16():
        return "bf16-mixed"
    return "16-mixed" if wanted == "auto" and torch.cuda.is_available() else "32-true"


def has_bfloat16() -> bool:
    """Whether the device has instructions for it; without them it would be slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def place() -> str:
    return "the graphics card" if torch.cuda.is_available() else "the processor"


def free_memory() -> tuple[int, str]:
    """Bytes that a network may use, and where."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], place()
    return available_memory(), "this machine"


def used_memory() -> int:
    """Bytes that this process holds; on a graphics card the most that torch had there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return int(psutil.Process().memory_info().rss)


def use_all_cores() -> None:
    """Without a graphics card, let torch compute on every core that this process may use."""
    if not torch.cuda.is_available():
        torch.set_num_threads(len(os.sched_getaffinity(0)))


class _Report(pl.Callback):
    """Progress, curves, cancel, and a checkpoint after every epoch."""

    def __init__(self, watcher: Watcher, data: Any, folder: Path) -> None:
        self.watcher, self.data, self.folder = watcher, data, folder
        self.epochs = self.validated_epoch = 0
        self.memory = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.data.set_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.watcher.check()
        self.memory = max(self.memory, used_memory() / 2**30)
        done = module.clock.fraction(trainer.global_step)
        self.watcher.progress(done, self._words(trainer, module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        self.watcher.check()

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        means = {name: sum(v) / len(v) for name, v in module.validation.items() if v}
        epoch = trainer.current_epoch + 1 if trainer.state.fn == "fit" else self.epochs
        self.validated_epoch = epoch
        for name, value in means.items():
            self.watcher.metric(f"val_{module.figure}/{name}"[:60], epoch, value)
        words = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        self.watcher.log(f"Epoch {epoch}: validation {FIGURES[module.figure]} {words or 'undefined'}")
        module.note_validation()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.epochs = trainer.current_epoch + 1
        self.watcher.metric("train_loss", self.epochs, module.train_loss)
        self.watcher.metric(MEMORY, self.epochs, self.memory)
        self.watcher.check()
        made = self.folder / f"{CHECKPOINT}.writing"
        try:
            trainer.save_checkpoint(made)
            os.replace(made, self.folder / CHECKPOINT)
        except OSError as error:
            raise TrainingError(
                f"The checkpoint of epoch {self.epochs} could not be written ({error.strerror}).",
                "Free space in the data folder and run the job again: it goes on from the checkpoint before.",
            ) from error

    def _words(self, trainer: pl.Trainer, module: Any) -> str:
        total = module.settings["epochs"]
        loss = f", loss {module.last_loss:.3f}" if module.last_loss is not None else ""
        return f"epoch {trainer.current_epoch + 1} of {'at most ' if module.clock.budget else ''}{total}{loss}"


def check_memory(module: TrainingModule, batch: int, settings: dict[str, Any], watcher: Watcher) -> None:
    """Raise `TrainingError` where a batch of the configured patches will not fit into memory."""
    needed = training_bytes(
        module.network,
        batch=batch,
        in_channels=1,
        patch=settings["patch"][3 - module.config["network"]["dimensions"] :],
    )
    free, place = free_memory()
    about = f"about {needed / 2**30:.1f} GB" if needed > 0.05 * 2**30 else "less than 0.1 GB"
    watcher.log(f"Memory: {about} needed, {free / 2**30:.1f} GB free on {place}")
    if needed > free:
        raise TrainingError(
            f"Training would need about {needed / 2**30:.1f} GB of memory; {place} has {free / 2**30:.1f} GB free.",
            "Choose a smaller training.batch_size or training.patch, fewer network.channels, or a larger machine.",
        )
