"""From a frozen cohort to a registered version, and what is refused before."""

from __future__ import annotations

import pytest

from inference.errors import ConfigError, TrainingError
from inference.evaluation import services as evaluation_services
from inference.evaluation.overlap import with_training
from inference.registry.services import open_bundle
from inference.training import services
from inference.training.fit import CHECKPOINT
from inference.training.models import TrainingRun
from studies.cohorts import services as cohorts
from studies.cohorts.models import ReferenceStandard
from studies.models import Series
from tests.factories import ProjectFactory
from tests.inference.models_factory import CONFIG, LABELS, add_mask, ball_cohort, ball_map, ball_series

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


def test_a_run_makes_a_version_that_knows_where_it_came_from(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    run = services.start(project=project, config=CONFIG, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    version = run.version
    assert (version.model.name, version.number, version.stage) == ("balls", 1, "candidate")
    assert job.result["version"] == version.pk
    facts = version.manifest["training"]
    assert (facts["training_cases"], facts["training_patients"], facts["validation_cases"]) == (4, 4, 2)
    assert facts["cohort_digest"] == cohort.digest == run.cohort_digest
    assert facts["epochs"] == 2
    entry = version.manifest["inputs"][0]
    assert (entry["name"], entry["modality"], entry["smallest"]) == ("image", ["CT"], [6, 8, 10])
    # Slices 2.5 mm apart, pixels of 0.8 × 0.7 mm; the model takes half as much again.
    assert facts["anisotropy"] == pytest.approx(2.5 / 0.7)
    assert entry["anisotropy"] == pytest.approx(1.5 * 2.5 / 0.7, abs=0.01)
    assert [label["name"] for label in version.manifest["labels"]] == ["Ball", "Dim ball"]
    assert open_bundle(version).network() is not None
    assert run.environment["torch"]
    assert (services.folder_of(run) / CHECKPOINT).exists()
    names = set(job.metrics.values_list("name", flat=True))
    assert names == {"train_loss", "memory_gb", "val_dice/Ball", "val_dice/Dim ball"}

    evaluation = evaluation_services.start(version, cohort, by=None)
    assert run_job(evaluation.job).state == "succeeded"
    evaluation.refresh_from_db()
    overlap = evaluation.overlap
    assert (overlap["known"], overlap["patients"], overlap["of_patients"]) == (True, 0, 2)
    assert overlap["same_cohort"]
    assert overlap["scanner_names"] == ["Readroom test"]
    # the images of a conversion carry the converter's name, which is no scanner that both sides share
    Series.objects.update(manufacturer="Readroom", manufacturer_model_name="")
    assert with_training(version, list(cohort.cases.all()))["scanners"] == 0

    on_all = evaluation_services.start(version, cohort, split="", by=None)
    run_job(on_all.job)
    on_all.refresh_from_db()
    assert on_all.overlap["patients"] == 6  # training and validation patients


def test_a_run_that_was_queued_before_an_upgrade_gets_the_settings_that_came_with_it(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 4)
    run = services.start(project=project, config=CONFIG, cohort=cohort, by=None)
    whole = run.config
    older = {**whole, "training": {k: v for k, v in whole["training"].items() if k != "precision"}}
    TrainingRun.objects.filter(pk=run.pk).update(config=older)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    assert run.config == whole


def test_a_second_run_makes_the_next_version_and_one_structure_may_be_chosen(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    config = {**CONFIG, "data": {"structures": ["Dim ball"]}, "training": {**CONFIG["training"], "epochs": 1}}
    numbers = []
    for _ in range(2):
        run = services.start(project=project, config=config, cohort=cohort, by=None)
        job = run_job(run.job)
        assert job.state == "succeeded", job.cause
        run.refresh_from_db()
        numbers.append(run.version.number)
    assert numbers == [1, 2]
    assert run.version.manifest["labels"][0]["name"] == "Dim ball"
    assert run.version.manifest["labels"][0]["number"] == 1


def test_cohorts_that_cannot_be_trained_on():
    project = ProjectFactory()
    open_one, _ = ball_cohort(project, 2, name="Open", freeze=False)
    with pytest.raises(TrainingError, match="“Open” is not frozen"):
        services.start(project=project, config=CONFIG, cohort=open_one, by=None)
    no_test, _ = ball_cohort(project, 2, name="No test", freeze=False)
    no_test = cohorts.freeze(no_test, by=None, fractions={"train": 1.0, "validation": 0.0, "test": 0.0})
    with pytest.raises(TrainingError, match="no test patients"):
        services.start(project=project, config=CONFIG, cohort=no_test, by=None)
    frozen, _ = ball_cohort(project, 4, name="Frozen")
    with pytest.raises(TrainingError, match="no structure 'Liver'"):
        services.start(project=project, config={**CONFIG, "data": {"structures": ["Liver"]}}, cohort=frozen, by=None)
    with pytest.raises(ConfigError):
        services.start(project=project, config={"name": "x"}, cohort=frozen, by=None)
    with pytest.raises(TrainingError, match=r"no cohort 'Nobody'. Cohorts: Frozen, No test, Open"):
        services.find_cohort(project, "Nobody")
    assert not TrainingRun.objects.exists()


def test_one_patient_is_not_enough():
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 1, freeze=False)
    cohort.frozen_at = cohort.created_at  # freezing itself refuses one patient
    with pytest.raises(TrainingError, match="has one patient"):
        services.start(project=project, config=CONFIG, cohort=cohort, by=None)


def test_a_training_set_without_foreground_fails_in_words_before_training(run_job):
    project = ProjectFactory()
    cohort = cohorts.create(project=project, name="Empty masks", by=None)
    truths = []
    for seed in range(4):
        labels = ball_map(seed)
        image = ball_series(project, seed, labels)
        case = cohorts.add_studies(cohort, [image.study]).cases[0]
        truths.append(cohorts.CaseTruth(case, add_mask(project, image, labels * 0)))
    cohorts.create_reference(
        cohort, name="Truth", source=ReferenceStandard.Source.PHANTOM, labels=LABELS, cases=truths, by=None
    )
    cohort = cohorts.freeze(cohort, by=None, fractions={"train": 0.5, "validation": 0.25, "test": 0.25})
    run = services.start(project=project, config=CONFIG, cohort=cohort, by=None)
    job = run_job(run.job)
    assert (job.state, job.error_class) == ("failed", "TrainingError")
    assert "no foreground" in job.cause
    assert "2 cases" in job.cause
    run.refresh_from_db()
    assert run.version is None


@pytest.mark.parametrize(("name", "more"), [("nnunet", {"features": 4}), ("unet", {"dimensions": 2})])
def test_a_self_configuring_network_and_one_in_2d_train_and_run(run_job, name, more):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 4)
    shared = {"channels": [4, 8], "strides": [2]} if name == "unet" else {}
    training = {**CONFIG["training"], "epochs": 1, "patch": [1, 16, 20]}
    if name == "nnunet":
        del training["patch"]
    config = {**CONFIG, "network": {"name": name, **more, **shared}, "training": training}
    run = services.start(project=project, config=config, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    if name == "nnunet":
        assert run.config["network"]["parameters"]["strides"][0] == [1, 1, 1]
        assert [step["name"] for step in run.config["preprocessing"]] == ["orient", "resample", "normalise"]
    evaluation = evaluation_services.start(run.version, cohort, by=None)
    assert run_job(evaluation.job).state == "succeeded"
