"""What goes wrong in the middle of a training: told with cause and next step, and what was trained so far is kept."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.errors import TrainingError
from inference.training import class_cases
from inference.training.class_cases import ClassifiedCase, one_class_alone
from inference.training.data import PreparedCase, SegmentationData, check_cases
from inference.training.fit import CHECKPOINT, fit
from inference.training.partitions import by_fold, folds_of
from studies.dicom.volume import Volume
from tests.factories import ProjectFactory
from tests.inference.class_factory import CLASSES, shape_cohort
from tests.inference.training.test_fit import NAMES, Watch, cases, data, settings


def epoch_of(folder: Path) -> int:
    """The last epoch, from 1, that the checkpoint holds."""
    return int(torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)["epoch"]) + 1


class After(Watch):
    """Does something as soon as an epoch has ended."""

    def __init__(self, epoch: int, action) -> None:
        super().__init__()
        self.epoch, self.action = epoch, action

    def metric(self, name: str, step: int, value: float) -> None:
        super().metric(name, step, value)
        if name == "train_loss" and step == self.epoch:
            self.action()


def test_a_loss_that_becomes_no_number_keeps_the_epochs_before_it(tmp_path):
    config = settings(epochs=4)
    broken = cases(range(4))
    poison = After(2, lambda: [case.image.fill_(torch.nan) for case in broken])
    with pytest.raises(TrainingError) as caught:
        fit(config, NAMES, SegmentationData(broken, [], config["training"]), tmp_path, poison)
    assert caught.value.cause.startswith("The loss is not a number any more (epoch 3")
    assert "a lower training.learning_rate" in caught.value.next_step
    assert epoch_of(tmp_path) == 2
    healthy = SegmentationData(cases(range(4)), [], config["training"])
    went_on = fit(config, NAMES, healthy, tmp_path, Watch())
    unbroken = fit(config, NAMES, healthy, tmp_path / "whole", Watch())
    assert all(torch.equal(went_on.weights[name], value) for name, value in unbroken.weights.items())


def test_a_full_disk_at_a_checkpoint_is_named_and_the_checkpoint_before_it_is_gone_on_from(tmp_path):
    """The kernel refuses to write more than 20 kB, as it refuses on a full disk."""
    config = settings(epochs=3)
    unbroken = fit(config, NAMES, data(config), tmp_path / "whole", Watch())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = After(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard)))
    try:
        with pytest.raises(TrainingError) as caught:
            fit(config, NAMES, data(config), tmp_path / "run", full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.cause.startswith("The checkpoint of epoch 2 could not be written")
    assert "Free space in the data folder and run the job again" in caught.value.next_step
    assert epoch_of(tmp_path / "run") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CHECKPOINT]  # nothing half-written lies about
    went_on = fit(config, NAMES, data(config), tmp_path / "run", Watch())
    assert all(torch.equal(went_on.weights[name], value) for name, value in unbroken.weights.items())


def test_images_of_mixed_size_and_spacing_are_trained_on_together_and_told(tmp_path):
    config = settings(epochs=1)
    small, large = cases(range(2))
    grown = torch.nn.functional.pad(large.image, (3, 5, 2, 2, 1, 0), mode="replicate")
    marks = torch.nn.functional.pad(large.labels, (3, 5, 2, 2, 1, 0))
    mixed = [small, PreparedCase("C-9", grown, marks, (4.0, 1.0, 1.0))]
    warnings = check_cases(mixed, [], patch=config["training"]["patch"], structures=NAMES)
    assert any("from 1×1×1 to 4×1×1 mm" in warning and "add a step resample" in warning for warning in warnings)
    trained = fit(config, NAMES, SegmentationData(mixed, [], config["training"]), tmp_path, Watch())
    assert np.isfinite(trained.train_loss)


def test_a_classifier_gets_images_of_one_size_whatever_they_were():
    config = {"preprocessing": [], "inference": {"window": [1, 32, 32]}}
    for kind, shape in (("uint8", (1, 20, 50)), ("int16", (1, 64, 31)), ("float32", (1, 32, 32))):
        assert class_cases.fitted(Volume(np.ones(shape, dtype=kind)), config).shape == (1, 32, 32)


def test_a_class_without_a_case_is_named_before_the_first_step():
    seen = [ClassifiedCase(f"C-{n}", torch.zeros(1, 1, 4, 4), n % 2) for n in range(4)]
    class_cases.check_classes(seen, ["disc", "bar"])
    with pytest.raises(TrainingError, match="None of the 4 training cases shows ring") as caught:
        class_cases.check_classes(seen, ["disc", "bar", "ring"])
    assert "data.structures" in caught.value.next_step


@pytest.mark.django_db
@pytest.mark.usefixtures("media")
def test_a_round_whose_training_folds_show_one_class_is_not_judged_and_says_so():
    _, reference = shape_cohort(ProjectFactory(), 8, folds=2, fractions={})
    entries = class_cases.classified(reference, CLASSES)
    kept = [e for e in entries if e.case.cohort_patient.fold == 0 or e.values["class"] == "disc"]
    made = by_fold(kept, folds_of(reference.cohort), one_class_alone)
    assert [round_.problem for round_ in made] == ["the training cases show disc alone", ""]


def test_a_structure_that_hardly_any_case_shows_is_told_before_training():
    one, *others = cases(range(5))
    for case in others:
        case.labels[case.labels == 2] = 0
    said = check_cases([one, *others[:3]], others[3:], patch=settings()["training"]["patch"], structures=NAMES)
    assert said == [
        f"{NAMES[1]} is shown by 1 of 4 training cases: too few to learn it from",
        f"No validation case shows {NAMES[1]}: its Dice tells of false voxels alone",
    ]
    assert (
        check_cases(cases(range(2)), cases(range(2, 3)), patch=settings()["training"]["patch"], structures=NAMES) == []
    )
