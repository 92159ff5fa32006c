"""Detection from a cohort to an evaluation: training by job, figures of planted findings."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from inference.errors import EvaluationError
from inference.evaluation import services
from inference.prediction.models import Prediction
from inference.registry import bundle
from inference.registry import services as registry
from inference.training import detection
from inference.training import services as training
from inference.training.detection_cases import lesions
from studies.cohorts import services as cohorts
from studies.cohorts.errors import CohortError
from studies.cohorts.models import ReferenceStandard
from studies.dicom import structured_report
from studies.volumes import load_image
from tests.factories import ProjectFactory
from tests.inference.models_factory import CONFIG, LABELS, ball_cohort, ball_manifest, threshold_version
from tests.inference.training.test_detection import NAMES, settings

pytestmark = pytest.mark.django_db

BALLS = [label["name"] for label in LABELS]
DETECTOR = {
    **CONFIG,
    "name": "ball-detector",
    "task": "detection",
    "network": {"channels": [4, 4, 4, 4], "pyramid": 8, "depth": 1},
    "training": {"patch": [16, 16, 32], "batch_size": 2, "epochs": 1, "seed": 5},
}


@pytest.fixture
def project(media, db):
    return ProjectFactory(slug="detection")


def detector_version(project):
    """A registered detector whose weights nobody asks for."""
    config = settings()
    module = detection.DetectionModule({**config}, NAMES, None)
    manifest = ball_manifest(
        task="detection",
        network={"name": "detector", "dimensions": 3, "parameters": config["network"]["parameters"]},
        output={"activation": "sigmoid", "threshold": 0.5},
        inference={"window": [16, 16, 32], "overlap": 0.5, "least": 0.05},
    )
    model = registry.create_model(project=project, name="balls", task="detection", by=None)
    return registry.register_version(model, bundle.check_manifest(manifest), module.network.state_dict(), by=None)


def finding(label, score, corners):
    return {"label": label, "score": score, "corners": np.asarray(corners).tolist()}


def test_training_on_masks_makes_a_detector_that_runs_and_is_evaluated(project, media, run_job):
    cohort, _ = ball_cohort(project)
    run = training.start(project=project, config=DETECTOR, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    manifest = run.version.manifest
    assert (manifest["task"], manifest["network"]["name"]) == ("detection", "detector")
    assert manifest["output"]["activation"] == "sigmoid"
    assert set(manifest["training"]["validation_froc"]) == {"Ball", "Dim ball"}
    evaluation = services.start(run.version, cohort, by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    evaluation.refresh_from_db()
    assert evaluation.overlap["failed_cases"] == []
    entry = evaluation.summary["Ball"]["froc_score"]
    assert (entry["n"], entry["lesions"]) == (2, 2)
    assert "bootstrap over 2 patients" in entry["method"]
    assert services.report(evaluation)["structures"]["Ball"]["metric"] == "froc_score"
    for prediction in Prediction.objects.filter(version=run.version):
        said = structured_report.read(pydicom.dcmread(media / prediction.report.instances.get().file))
        assert len(said.findings) == len(prediction.findings)
        # Present is what reaches the threshold, not what is listed.
        assert said.present == {name: score >= 0.5 for name, score in prediction.scores.items()}


def test_figures_of_planted_findings_are_the_known_ones(project, run_job):
    """Two balls found exactly, one missed, one false alarm that is more probable than the second hit."""
    cohort, reference = ball_cohort(project, patients=6)
    version = detector_version(project)
    entries = services.labelled_cases(reference, "", BALLS)
    planted = {0: [0.9], 1: [0.6], 2: []}
    for number, entry in enumerate(entries):
        volume = load_image(entry.case.image)
        truth = {lesion.label: lesion for lesion in lesions(entry, volume, LABELS)}
        found = [finding("Ball", score, truth["Ball"].corners) for score in planted.get(number, [0.9])]
        if number == 3:
            found.append(finding("Ball", 0.7, truth["Dim ball"].corners))
        Prediction.objects.create(
            version=version, study=entry.case.study, image=entry.case.image, findings=found, scores={}
        )
    evaluation = services.start(version, cohort, reference=reference, split="", by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    evaluation.refresh_from_db()
    figures = evaluation.summary["Ball"]
    # 5 of 6 balls are found; with one false alarm in 6 images at 0.7, 4 of 6 before it.
    assert figures["lesion_sensitivity"]["estimate"] == pytest.approx(5 / 6)
    assert figures["false_positives_per_image"]["estimate"] == pytest.approx(1 / 6)
    assert figures["sensitivity_1"]["estimate"] == pytest.approx(5 / 6)
    assert figures["sensitivity_0_125"]["estimate"] == pytest.approx(4 / 6)
    # Precision 1 until the fourth hit, 5/6 at the fifth.
    assert figures["average_precision"]["estimate"] == pytest.approx(4 / 6 + (1 / 6) * (5 / 6))
    assert figures["afroc"]["estimate"] is None
    assert figures["froc_score"]["lower"] < figures["froc_score"]["estimate"] < figures["froc_score"]["upper"]
    missed = evaluation.summary["Dim ball"]
    assert missed["froc_score"]["estimate"] == 0
    results = evaluation.case_results.filter(structure="Ball").order_by("case__name")
    assert [row.values["found"] for row in results] == [1, 1, 0, 1, 1, 1]


def test_boxes_and_points_make_a_reference_standard_that_a_detector_learns_from_and_is_judged_by(project, run_job):
    cohort, masks = ball_cohort(project)
    truths = []
    for label in masks.case_labels.select_related("case__image").order_by("case__name"):
        affine = load_image(label.case.image).affine
        corners = [(affine @ [*corner, 1])[:3].tolist() for corner in ((2, 5, 3), (8, 11, 9))]
        point = (affine @ [15, 8, 6, 1])[:3].tolist()
        boxes = [{"label": "Ball", "corners": corners}, {"label": "Dim ball", "corners": [point, point]}]
        truths.append(cohorts.CaseTruth(label.case, values={"boxes": boxes}))
    how = {"name": "Boxes", "source": ReferenceStandard.Source.PHANTOM, "labels": LABELS, "by": None}
    reference = cohorts.create_reference(cohort, cases=truths, **how)
    assert reference.kind == ReferenceStandard.Kind.BOXES
    config = {**DETECTOR, "detection": {"point_size": 6}}
    job = run_job(training.start(project=project, config=config, cohort=cohort, reference=reference, by=None).job)
    assert job.state == "succeeded", job.cause
    evaluation = services.start(detector_version(project), cohort, reference=reference, by=None)
    assert run_job(evaluation.job).state == "succeeded"
    evaluation.refresh_from_db()
    assert evaluation.summary["Dim ball"]["froc_score"]["lesions"] == 2

    wrong = cohorts.CaseTruth(truths[0].case, values={"boxes": [{"label": "Ball", "corners": [[0, 0], [1, 1]]}]})
    with pytest.raises(CohortError, match="three numbers"):
        cohorts.create_reference(cohort, cases=[wrong], **how)
    unknown = cohorts.CaseTruth(truths[0].case, values={"boxes": [{"label": "Tube", "corners": [[0] * 3] * 2}]})
    with pytest.raises(CohortError, match="labels"):
        cohorts.create_reference(cohort, cases=[unknown], **how)


def test_a_segmentation_model_is_not_judged_by_boxes(project):
    cohort, masks = ball_cohort(project)
    entry = masks.case_labels.first()
    reference = cohorts.create_reference(
        cohort, name="Boxes", source=ReferenceStandard.Source.PHANTOM, labels=LABELS, by=None,
        cases=[cohorts.CaseTruth(entry.case, values={"boxes": []})],
    )  # fmt: skip
    with pytest.raises(EvaluationError, match="holds boxes"):
        services.start(threshold_version(project), cohort, reference=reference, by=None)
