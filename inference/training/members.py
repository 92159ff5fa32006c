"""Several networks from one training run, which answer together: an ensemble.

They learn from the same patients one after another, from different random starts and in different order, so each makes
errors of its own, and the mean of their answers makes fewer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from inference.errors import TrainingError
from inference.evaluation.metrics.overlap import dice
from inference.networks import table
from inference.networks.sliding_window import sampled
from inference.training.config import Config
from inference.training.data import PreparedCase, SegmentationData
from inference.training.fit import CHECKPOINT, Trained, Watcher, fit
from inference.training.parts import Part

FINISHED = "trained.pt"


def train(
    config: Config,
    structures: list[str],
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    folder: Path,
    watcher: Watcher,
) -> list[Trained]:
    """The network of the configuration, or each of `training.networks`.

    Network number n is what a run with the seed n - 1 higher and that share of the minutes would give. Networks that
    are finished are read from `folder`, and the one that was under way goes on from its checkpoint. See `fit.fit`.
    """
    settings = config["training"]
    count = settings["networks"]
    if count == 1:
        return [fit(config, structures, SegmentationData(training, validation, settings), folder, watcher)]
    made = []
    for number in range(count):
        own = {**settings, "seed": settings["seed"] + number, "max_minutes": settings["max_minutes"] / count}
        place = folder / f"network-{number + 1}"
        part = Part(watcher, number / count, 1 / count, f"network {number + 1}", curves=True)
        found = _read(place)
        if found is None:
            data = SegmentationData(training, validation, own)
            found = fit({**config, "training": own}, structures, data, place, part)
            _keep(place, found)
            part.log(f"trained {found.epochs} epochs, {found.steps} steps in {found.seconds:.0f} s")
        made.append(found)
    return made


def together(
    config: Config, structures: Sequence[str], made: Sequence[Trained], validation: Sequence[PreparedCase]
) -> Trained:
    """The networks as one: validated as they will be used, steps and seconds added up. Without weights."""
    if len(made) == 1:
        return made[0]
    spec = config["network"]
    networks = []
    for trained in made:
        network = table.build(
            spec["name"],
            dimensions=spec["dimensions"],
            in_channels=1,
            out_channels=len(structures) + 1,
            parameters=spec["parameters"],
        )
        network.load_state_dict(trained.weights)
        networks.append(network.eval())
    values: dict[str, list[float]] = {name: [] for name in structures}
    for case in validation:
        found = sampled(networks, case.image, config["inference"]).mean.argmax(0).numpy()
        truth = case.labels.numpy()
        for label, name in enumerate(structures, start=1):
            value = dice(truth == label, found == label)
            if value is not None:
                values[name].append(value)
    return Trained(
        weights={},
        epochs=sum(trained.epochs for trained in made),
        steps=sum(trained.steps for trained in made),
        seconds=sum(trained.seconds for trained in made),
        validation=values,
        train_loss=sum(trained.train_loss for trained in made) / len(made),
        precision=made[0].precision,
    )


def _keep(folder: Path, trained: Trained) -> None:
    written = folder / f"{FINISHED}.writing"
    try:
        torch.save(asdict(trained), written)
        os.replace(written, folder / FINISHED)
    except OSError as error:
        raise TrainingError(
            f"A trained network could not be written ({error.strerror}).",
            "Free space in the data folder and retry the job: it goes on from the last checkpoint.",
        ) from error
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _read(folder: Path) -> Trained | None:
    file = folder / FINISHED
    return Trained(**torch.load(file, map_location="cpu", weights_only=True)) if file.exists() else None
