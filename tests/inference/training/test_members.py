"""Several networks from one training run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.errors import ConfigError
from inference.evaluation.metrics.overlap import dice
from inference.networks.sliding_window import probabilities
from inference.registry import services as registry
from inference.training import config as configuration
from inference.training import members
from inference.training.fit import CHECKPOINT, Trained, fit
from inference.training.models import TrainingRun
from inference.training.module import Clock, SegmentationModule
from inference.training.services import start
from tests.factories import ProjectFactory
from tests.inference.models_factory import CONFIG, ball_cohort
from tests.inference.training.test_fit import NAMES, Watch, cases, data, settings

TRAINING, VALIDATION = range(4), range(4, 6)


def train(config: configuration.Config, folder, watch: Watch | None = None) -> list[Trained]:
    return members.train(config, NAMES, cases(TRAINING), cases(VALIDATION), folder, watch or Watch())


def same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_each_network_is_what_a_run_with_the_next_seed_would_give(tmp_path):
    first, second = train(settings(networks=2, epochs=2), tmp_path / "both")
    for network, seed in ((first, 5), (second, 6)):
        alone = settings(epochs=2, seed=seed)
        assert same(network, fit(alone, NAMES, data(alone), tmp_path / str(seed), Watch()))
    assert not same(first, second)


def test_one_network_is_a_run_as_ever(tmp_path):
    config = settings(epochs=2)
    made = train(config, tmp_path / "one")
    assert len(made) == 1
    assert members.together(config, NAMES, made, cases(VALIDATION)) is made[0]
    assert same(made[0], fit(config, NAMES, data(config), tmp_path / "fit", Watch()))


@pytest.mark.parametrize("stop_at", [9, 26])
def test_a_run_that_was_stopped_ends_as_an_unbroken_one(tmp_path, stop_at):
    """9 checks lie within the second epoch of the first network, 26 within the second network."""
    config = settings(networks=2, epochs=3)
    whole = train(config, tmp_path / "whole")
    watch = Watch(stop_at)
    with pytest.raises(InterruptedError):
        train(config, tmp_path / "broken", watch)
    finished = (tmp_path / "broken" / "network-1" / members.FINISHED).exists()
    assert finished is (stop_at == 26)
    watch = Watch()
    resumed = train(config, tmp_path / "broken", watch)
    assert finished is not any(name.endswith("network 1") for name in watch.metrics)
    assert all(same(one, other) for one, other in zip(whole, resumed, strict=True))


def test_progress_and_curves_are_those_of_the_whole_run(tmp_path):
    watch = Watch()
    train(settings(networks=2, epochs=2), tmp_path, watch)
    assert watch.fractions == sorted(watch.fractions)
    assert watch.fractions[-1] == 1
    assert [step for step, _ in watch.metrics["train_loss/network 2"]] == [1, 2]
    assert {"val_dice/Ball, network 1", "val_dice/Dim ball, network 2"} <= set(watch.metrics)
    assert not list(tmp_path.glob(f"*/{CHECKPOINT}"))


def test_the_whole_is_validated_by_the_mean_of_the_answers(tmp_path):
    config = settings(networks=2, epochs=2)
    made = train(config, tmp_path)
    whole = members.together(config, NAMES, made, cases(VALIDATION))
    for number, case in enumerate(cases(VALIDATION)):
        answers = []
        for trained in made:
            module = SegmentationModule(config, NAMES, Clock(1, 0))
            module.averaged.load_state_dict(trained.weights)
            answers.append(probabilities(module.averaged, case.image, config["inference"]).numpy())
        found = np.mean(answers, axis=0).argmax(0)
        for label, name in enumerate(NAMES, start=1):
            assert whole.validation[name][number] == dice(case.labels.numpy() == label, found == label)
    assert (whole.epochs, whole.steps) == (4, sum(one.steps for one in made))


def test_a_run_of_several_networks_makes_one_version_that_answers_as_their_mean(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project)
    config = {**CONFIG, "training": {**CONFIG["training"], "networks": 2}}
    run = start(project=project, config=config, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run = TrainingRun.objects.get(pk=run.pk)
    opened = registry.open_bundle(run.version)
    assert [member["seed"] for member in opened.manifest["members"]] == [5, 6]
    first, second = opened.networks()
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    assert opened.manifest["training"]["epochs"] == 4


def test_several_networks_at_once_are_for_segmentation():
    with pytest.raises(ConfigError, match="networks"):
        configuration.check(
            {
                "name": "x",
                "task": "classification",
                "network": {"name": "resnet18", "dimensions": 2},
                "training": {"patch": [1, 64, 64], "networks": 2},
            }
        )
