"""Classifiers from a cohort with classes: frozen, transferred, from scratch; cross-validation; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.errors import ConfigError, TrainingError
from inference.evaluation import services as evaluation_services
from inference.networks import adaptation, table, weights
from inference.prediction.models import Prediction
from inference.registry.services import open_bundle
from inference.training import class_cases, config, crossvalidation, partitions, services, traditional
from inference.training.models import HeldOutPrediction
from tests.factories import ProjectFactory
from tests.inference.class_factory import CLASSES, CONFIG, shape_cohort

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


def class_of(entry) -> str:
    return entry.values["class"]


def changed(**training) -> dict:
    return {**CONFIG, "training": {**CONFIG["training"], **training}}


@pytest.fixture
def pretrained(tmp_path) -> str:
    """Weights of the same network for three classes of something else."""
    torch.manual_seed(1)
    network = table.build(
        "cnn", dimensions=2, in_channels=1, out_channels=3, parameters={"channels": [4, 8], "hidden": 8}
    )
    torch.save(network.state_dict(), tmp_path / "pretrained.pth")
    return str(tmp_path / "pretrained.pth")


def test_a_classifier_is_trained_run_and_evaluated(run_job):
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 16)
    run = services.start(project=project, config=changed(early_stopping=6), cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    manifest = run.version.manifest
    assert (manifest["task"], [label["name"] for label in manifest["labels"]]) == ("classification", list(CLASSES))
    assert manifest["training"]["training_patients"] == 8
    assert manifest["training"]["epochs"] < CONFIG["training"]["epochs"]  # it stopped early: there was nothing to gain
    assert {"train_loss", "val_auc/disc"} <= set(job.metrics.values_list("name", flat=True))

    evaluation = evaluation_services.start(run.version, cohort, reference=reference, by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    evaluation.refresh_from_db()
    report = evaluation_services.report(evaluation)
    assert report["n"] == 4
    assert report["classification"]["pairs"][0]["auc"]["estimate"] == 1.0
    assert [sum(row) for row in report["classification"]["confusion"]["counts"]] == [2, 2]
    assert report["classification"]["accuracy"]["method"].startswith("BCa bootstrap over 4 patients")
    assert report["summary"]["disc"]["case_sensitivity"]["method"] == "Wilson score"
    assert report["summary"]["disc"]["dice"]["estimate"] is None
    for prediction in Prediction.objects.all():
        assert prediction.segmentation is None
        assert set(prediction.scores) == set(CLASSES)
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)


def test_frozen_features_leave_the_backbone_as_it_was_and_are_computed_once(run_job, pretrained, media):
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 12)
    frozen = changed(strategy="frozen", weights=pretrained)
    run = services.start(project=project, config=frozen, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    network = open_bundle(run.version).network()
    head, _ = adaptation.head_of(network)
    before = weights.read(Path(pretrained))
    for name, value in network.state_dict().items():
        if not name.startswith(head):
            assert torch.equal(value, before[name]), name
    facts = run.version.manifest["training"]
    assert facts["backbone_sha256"] == weights.digest(network, without=head)
    assert facts["weights"]["fresh"] == [f"{head}.weight", f"{head}.bias"]
    kept = list((media / "training" / "features").glob("*.safetensors"))
    assert [path.stem for path in kept] == [facts["backbone_sha256"]]
    assert len(weights.read(kept[0])) == 9  # training and validation images
    stamp = kept[0].stat().st_mtime_ns
    again = services.start(project=project, config=frozen, cohort=cohort, by=None)
    assert run_job(again.job).state == "succeeded"
    assert kept[0].stat().st_mtime_ns == stamp


def test_transfer_changes_the_backbone_more_slowly_than_the_last_layer(run_job, pretrained):
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 12)
    moved = {}
    for share in (0.0, 0.1):
        settings = changed(
            strategy="transfer", weights=pretrained, epochs=1, backbone_rate=share, weight_decay=0.0, averaging=0.0
        )
        run = services.start(project=project, config=settings, cohort=cohort, by=None)
        job = run_job(run.job)
        assert job.state == "succeeded", job.cause
        run.refresh_from_db()
        state, before = open_bundle(run.version).network().state_dict(), weights.read(Path(pretrained))
        moved[share] = float((state["features.0.weight"] - before["features.0.weight"]).abs().max())
    assert moved[0.0] == 0
    assert 0 < moved[0.1] <= 0.1 * CONFIG["training"]["learning_rate"] * 3


def test_cross_validation_judges_every_case_once_by_a_model_that_never_saw_its_patient(run_job):
    project = ProjectFactory()
    cohort, reference = shape_cohort(
        project, 16, maker=lambda seed: "East" if seed % 4 < 2 else "West", folds=4, fractions={}
    )
    settings = {
        **changed(epochs=8),
        "cross_validation": {
            "schemes": ["folds", "sources"],
            "source": "manufacturer",
            "baselines": ["logistic_regression", "svm", "random_forest", "sparse"],
        },
    }
    made = crossvalidation.start(project=project, config=settings, cohort=cohort, by=None)
    job = run_job(made.job)
    assert job.state == "succeeded", job.cause
    made.refresh_from_db()
    entries = {entry.case_id: entry for entry in class_cases.classified(reference, CLASSES)}
    for scheme in ("folds", "sources"):
        for method in ("network", "logistic_regression", "svm", "random_forest", "sparse"):
            rows = HeldOutPrediction.objects.filter(cross_validation=made, scheme=scheme, method=method)
            assert {row.case_id for row in rows} == set(entries)
            assert all(sum(row.probabilities.values()) == pytest.approx(1, abs=1e-4) for row in rows)
            figures = made.summary["schemes"][scheme]["methods"][method]
            right = sum(max(row.probabilities, key=row.probabilities.get) == row.truth for row in rows)
            assert figures["accuracy"]["estimate"] == pytest.approx(right / 16)
            assert figures["n"] == figures["patients"] == 16
    assert made.summary["schemes"]["folds"]["methods"]["logistic_regression"]["accuracy"]["estimate"] >= 0.9
    for part in crossvalidation.rounds(made.config, cohort, list(entries.values()))["folds"]:
        assert not {partitions.unit_of(e) for e in part.training} & {partitions.unit_of(e) for e in part.test}
    assert [part["name"] for part in made.summary["schemes"]["sources"]["rounds"]] == ["without East", "without West"]
    against = made.summary["schemes"]["folds"]["against"]["folds"]
    methods = made.summary["schemes"]["folds"]["methods"]
    for method in ("logistic_regression", "svm", "random_forest", "sparse"):
        gained = methods["network"]["accuracy"]["estimate"] - methods[method]["accuracy"]["estimate"]
        assert against[method]["accuracy"]["estimate"] == pytest.approx(gained)
        assert against[method]["accuracy"]["p"] <= against[method]["accuracy"]["p_holm"] <= 1
    assert set(made.summary["schemes"]["sources"]["against"]) == {"without East", "without West"}
    assert sum(part["n"] for part in methods["svm"]["rounds"].values()) == 16
    assert made.summary["confounding"]["cramers_v"] == pytest.approx(0, abs=1e-9)
    assert made.summary["confounding"]["warning"] == ""


def test_class_and_source_that_go_together_are_told_and_a_round_of_one_class_is_not_judged(run_job):
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 12, maker=lambda seed: ("East", "West")[seed % 2], folds=2, fractions={})
    settings = {**CONFIG, "cross_validation": {"schemes": ["sources"], "source": "manufacturer"}}
    made = crossvalidation.start(project=project, config=settings, cohort=cohort, by=None)
    assert run_job(made.job).state == "succeeded"
    made.refresh_from_db()
    assert "6 of 6 disc cases come from East" in made.summary["confounding"]["warning"]
    assert made.summary["schemes"]["sources"]["methods"] == {}
    problems = [part["problem"] for part in made.summary["schemes"]["sources"]["rounds"]]
    assert problems == ["the training cases show bar alone", "the training cases show disc alone"]


def test_what_cannot_be_cross_validated_is_refused_in_words():
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 12)
    with pytest.raises(TrainingError, match="not frozen in folds"):
        crossvalidation.start(project=project, config=CONFIG, cohort=cohort, by=None)
    with pytest.raises(TrainingError, match="no class 'ring'"):
        services.start(project=project, config={**CONFIG, "data": {"structures": ["ring"]}}, cohort=cohort, by=None)
    with pytest.raises(ConfigError, match=r"training\.weights: missing; frozen needs imagenet"):
        config.check(changed(strategy="frozen"))
    with pytest.raises(ConfigError, match="imagenet is there for EfficientNet-lite0 alone"):
        config.check(changed(strategy="frozen", weights="imagenet"))
    with pytest.raises(ConfigError, match="Residual U-Net is for segmentation"):
        config.check({**CONFIG, "network": {"name": "unet", "dimensions": 2}})
    with pytest.raises(ConfigError, match="'forest' is none of logistic_regression"):
        config.check({**CONFIG, "cross_validation": {"baselines": ["forest"]}})
    with pytest.raises(ConfigError, match=r"cross_validation\.source: missing"):
        config.check({**CONFIG, "cross_validation": {"schemes": ["sources"]}})


def test_early_stopping_inside_a_round_looks_at_training_patients_only(run_job):
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 16, folds=2, fractions={})
    made = crossvalidation.start(project=project, config=changed(early_stopping=2, epochs=60), cohort=cohort, by=None)
    job = run_job(made.job)
    assert job.state == "succeeded", job.cause
    lines = list(job.log.values_list("text", flat=True))
    assert sum("early stopping looks at 2 of the 8 training cases" in line for line in lines) == 2
    assert any("validation AUC" in line for line in lines)
    assert not any("Epoch 60:" in line for line in lines)


def test_the_inner_validation_shares_no_patient_and_leaves_every_class_to_learn_from():
    project = ProjectFactory()
    _, reference = shape_cohort(project, 15, classes=lambda seed: "bar" if seed % 5 == 0 else "disc")
    entries = class_cases.classified(reference, CLASSES)
    assert [entry.values["class"] for entry in entries].count("bar") == 3
    for seed in range(20):
        learn, validate = partitions.inner_split(entries, share=0.2, seed=seed, kind=class_of)
        assert not {partitions.unit_of(e) for e in learn} & {partitions.unit_of(e) for e in validate}
        assert {entry.case_id for entry in learn + validate} == {entry.case_id for entry in entries}
        assert {entry.values["class"] for entry in learn} == set(CLASSES)
        assert [entry.values["class"] for entry in validate].count("disc") == 2
        assert (learn, validate) == partitions.inner_split(entries, share=0.2, seed=seed, kind=class_of)
    only, none = partitions.inner_split(entries[:1], share=0.5, seed=0, kind=class_of)
    assert (len(only), none) == (1, [])


def test_deep_learning_against_traditional_needs_no_configuration():
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 12, maker=lambda seed: ("East", "West")[seed % 2], folds=3, fractions={})
    made = traditional.configuration(cohort, reference)
    assert made["cross_validation"] == {
        "schemes": ["folds", "sources"],
        "source": "manufacturer",
        "baselines": ["logistic_regression", "svm", "random_forest", "sparse"],
    }
    assert (made["network"]["name"], made["training"]["strategy"]) == ("efficientnet_lite0", "frozen")
    like = traditional.configuration(cohort, reference, like=config.check(CONFIG))
    assert (like["network"]["name"], like["training"]["early_stopping"]) == ("cnn", traditional.INNER_WAIT)
    assert config.check(like) == like
    fitted = config.check(CONFIG | {"preprocessing": [{"name": "nyul", "scale": [float(n) for n in range(11)]}]})
    knows = traditional.configuration(cohort, reference, like=fitted)
    with pytest.raises(TrainingError, match="would have seen the patients of every test"):
        crossvalidation.start(project=project, config=knows, cohort=cohort, by=None)
    shares, of_shares = shape_cohort(ProjectFactory(), 12)
    with pytest.raises(TrainingError, match="frozen in shares, not in folds"):
        traditional.configuration(shares, of_shares)
