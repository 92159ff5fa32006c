"""Lightning fits on constructed cases: learning, resuming, cancelling, bad sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.errors import TrainingError
from inference.evaluation.metrics.overlap import dice
from inference.networks.sliding_window import probabilities
from inference.training import config as configuration
from inference.training.data import Patches, PreparedCase, SegmentationData, check_cases, cut
from inference.training.fit import CHECKPOINT, fit, has_bfloat16
from inference.training.module import Clock, SegmentationModule, learning_rate
from portal.runtime.data_folder import REPOSITORY
from tests.inference.models_factory import CONFIG, LABELS, ball_map

NAMES = [label["name"] for label in LABELS]


class Watch:
    """Notes what a fit reports; raises at the given batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.lines: list[str] = []
        self.metrics: dict[str, list[tuple[int, float]]] = {}
        self.fractions: list[float] = []
        self.checks, self.stop_at = 0, stop_at

    def log(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, fraction: float, text: str = "") -> None:
        self.fractions.append(fraction)

    def metric(self, name: str, step: int, value: float) -> None:
        self.metrics.setdefault(name, []).append((step, value))

    def check(self) -> None:
        self.checks += 1
        if self.stop_at is not None and self.checks >= self.stop_at:
            raise InterruptedError


def cases(seeds: range, *, dim: bool = True) -> list[PreparedCase]:
    made = []
    for seed in seeds:
        labels = ball_map(seed, dim=dim)
        noise = np.random.default_rng(seed).normal(0, 0.2, labels.shape)
        image = (labels == 1) * 3.0 + (labels == 2) * 1.5 + noise
        made.append(
            PreparedCase(f"C-{seed}", torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(labels))
        )
    return made


def settings(**training) -> configuration.Config:
    return configuration.check({**CONFIG, "training": {**CONFIG["training"], **training}})


def data(config: configuration.Config) -> SegmentationData:
    return SegmentationData(cases(range(4)), cases(range(4, 6)), config["training"])


def test_the_last_epoch_is_validated_once(tmp_path):
    config = settings(epochs=2, validate_every=5, early_stopping=9)
    watch = Watch()
    fit(config, NAMES, data(config), tmp_path, watch)
    assert [line for line in watch.lines if "validation Dice" in line] == [watch.lines[-1]]
    assert {name: len(points) for name, points in watch.metrics.items() if "val_" in name} == {
        f"val_dice/{name}": 1 for name in NAMES
    }


def test_it_learns_to_find_the_balls(tmp_path):
    config = settings(epochs=30, validate_every=10)
    watch = Watch()
    trained = fit(config, NAMES, data(config), tmp_path, watch)
    assert trained.epochs == 30
    assert all(np.mean(trained.validation[name]) > 0.8 for name in NAMES)
    losses = [value for _, value in watch.metrics["train_loss"]]
    assert len(losses) == 30
    assert losses[-1] < 0.6 * losses[0]
    assert [step for step, _ in watch.metrics["val_dice/Ball"]] == [10, 20, 30]
    assert watch.fractions == sorted(watch.fractions)
    assert watch.fractions[-1] == 1


@pytest.mark.parametrize("stop_at", [9, 14])
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, stop_at):
    """9 checks lie within the second epoch, 14 within the third."""
    config = settings(epochs=4)
    whole = fit(config, NAMES, data(config), tmp_path / "whole", Watch())
    with pytest.raises(InterruptedError):
        fit(config, NAMES, data(config), tmp_path / "broken", Watch(stop_at))
    assert (tmp_path / "broken" / CHECKPOINT).exists()
    watch = Watch()
    resumed = fit(config, NAMES, data(config), tmp_path / "broken", watch)
    assert "Going on from the checkpoint" in "".join(watch.lines)
    assert len(watch.metrics["train_loss"]) < 4
    assert resumed.epochs == whole.epochs == 4
    assert resumed.steps == whole.steps
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name


class Killed(Watch):
    """A process that is killed with -9 in the midst of its third epoch."""

    def check(self) -> None:
        super().check()
        if self.checks == 14:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: str) -> None:
    config = settings(epochs=4)
    fit(config, NAMES, data(config), Path(folder), Killed())


def test_a_process_killed_with_9_leaves_what_ends_with_the_weights_of_an_unbroken_run(tmp_path):
    config = settings(epochs=4)
    whole = fit(config, NAMES, data(config), tmp_path / "whole", Watch())
    folder = str(tmp_path / "killed")
    code = f"import django; django.setup(); from {__name__} import train_until_killed; train_until_killed({folder!r})"
    child = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=120, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    resumed = fit(config, NAMES, data(config), tmp_path / "killed", Watch())
    assert (resumed.epochs, resumed.steps) == (whole.epochs, whole.steps)
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    config, other = settings(epochs=1), settings(epochs=1, seed=6)
    first = fit(config, NAMES, data(config), tmp_path / "1", Watch()).weights
    again = fit(config, NAMES, data(config), tmp_path / "2", Watch()).weights
    third = fit(other, NAMES, data(other), tmp_path / "3", Watch()).weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="This processor has no instructions for bfloat16.")


@needs_bfloat16
def test_bfloat16_computes_otherwise_but_keeps_float32_weights_and_resumes_as_exactly(tmp_path):
    config = settings(epochs=3, precision="bfloat16")
    whole = fit(config, NAMES, data(config), tmp_path / "whole", Watch())
    with pytest.raises(InterruptedError):
        fit(config, NAMES, data(config), tmp_path / "broken", Watch(9))
    resumed = fit(config, NAMES, data(config), tmp_path / "broken", Watch())
    exact = fit(settings(epochs=3), NAMES, data(config), tmp_path / "exact", Watch())
    assert (whole.precision, exact.precision) == ("bf16-mixed", "32-true")
    assert {value.dtype for value in whole.weights.values() if value.is_floating_point()} == {torch.float32}
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert not all(torch.equal(value, exact.weights[name]) for name, value in whole.weights.items())


@needs_bfloat16
def test_validation_computes_as_inference_does_whatever_the_steps_use(tmp_path):
    config = settings(epochs=3, precision="bfloat16")
    made = data(config)
    trained = fit(config, NAMES, made, tmp_path, Watch())
    module = SegmentationModule(config, NAMES, Clock(1, 0))
    module.averaged.load_state_dict(trained.weights)
    for case, *values in zip(made.validation, *trained.validation.values(), strict=True):
        found = probabilities(module.averaged, case.image, config["inference"]).argmax(0).numpy()
        truth = case.labels.numpy()
        assert values == [dice(truth == number, found == number) for number in (1, 2)]


def test_without_instructions_for_bfloat16_float32_is_used_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("inference.training.fit.has_bfloat16", lambda: False)
    config, watch = settings(epochs=1, precision="bfloat16"), Watch()
    assert fit(config, NAMES, data(config), tmp_path, watch).precision == "32-true"
    assert "no instructions for bfloat16" in "".join(watch.lines)


def test_the_time_budget_ends_training_early(tmp_path):
    config = settings(epochs=100_000, max_minutes=0.05)
    trained = fit(config, NAMES, data(config), tmp_path, Watch())
    assert 0 < trained.epochs < 100_000
    assert 2.9 < trained.seconds < 20


def test_a_loss_that_is_no_number_stops_with_words(tmp_path):
    config = settings(epochs=3)
    broken = cases(range(4))
    broken[2].image[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not a number"):
        fit(config, NAMES, SegmentationData(broken, [], config["training"]), tmp_path, Watch())


def test_training_that_cannot_fit_into_memory_is_refused_before(tmp_path):
    config = settings(patch=[1024, 1024, 1024], batch_size=512)
    made = SegmentationData(cases(range(4)), [], {**config["training"], "samples_per_case": 200})
    with pytest.raises(TrainingError, match="GB of memory"):
        fit(config, NAMES, made, tmp_path, Watch())


@pytest.mark.parametrize(
    ("training", "patch", "words"),
    [
        (
            [PreparedCase("C-1", torch.zeros(1, 8, 8, 8), torch.zeros(8, 8, 8, dtype=torch.uint8))],
            [8] * 3,
            "no foreground",
        ),
        (cases(range(2), dim=False), [12, 16, 20], "never shows Dim ball"),
        (cases(range(2)), [32, 16, 20], "C-0 has 12×16×20 voxels .* less than half of the patch"),
    ],
)
def test_sets_that_nothing_can_be_learned_from(training, patch, words):
    with pytest.raises(TrainingError, match=words):
        check_cases(training, [], patch=patch, structures=NAMES)


def test_a_patch_beyond_the_volume_repeats_the_edge_and_is_background():
    case = cases(range(1))[0]
    image, labels = cut(case, (-2, 0, 15), (16, 16, 10))
    assert image.shape == (1, 16, 16, 10)
    assert torch.equal(image[0, 2:14, :, :5], case.image[0, :, :, 15:20])
    assert torch.equal(image[0, 0], image[0, 2])
    assert torch.equal(image[0, :, :, 9], image[0, :, :, 4])
    assert not labels[0, :2].any()
    assert not labels[0, :, :, 5:].any()


def test_patches_can_be_centred_on_structures():
    config = settings(patch=[4, 4, 4], foreground_share=1.0)
    patches = Patches(cases(range(4)), config["training"])
    assert all(patches[place]["labels"].any() for place in range(len(patches)))


def test_every_epoch_has_its_own_patches_and_the_same_ones_again():
    patches = Patches(cases(range(1)), settings(patch=[4, 4, 4])["training"])
    first = patches[0]["image"]
    patches.epoch = 1
    second = patches[0]["image"]
    patches.epoch = 0
    assert torch.equal(patches[0]["image"], first)
    assert not torch.equal(first, second)


def test_learning_rate_rises_then_falls_along_a_cosine():
    assert learning_rate(1.0, 0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate(1.0, 0.1, 0.1) == pytest.approx(1.0)
    assert learning_rate(1.0, 0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.0, 0.1) == pytest.approx(1e-3)


def test_the_clock_counts_earlier_attempts():
    clock = Clock(total_steps=100, max_minutes=1)
    clock.before = 30
    assert clock.fraction(10) == pytest.approx(0.5)
    assert Clock(100, 0).fraction(10) == pytest.approx(0.1)
