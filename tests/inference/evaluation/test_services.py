"""Evaluations of predictions whose errors are planted."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import EvaluationError
from inference.evaluation import services
from inference.evaluation.models import CaseResult, Evaluation
from inference.prediction import engine
from inference.prediction.models import Prediction
from portal.accounts.models import Role
from studies.cohorts import services as cohorts
from studies.cohorts.models import ReferenceStandard
from studies.dicom import segmentation
from studies.models import Embargo, Origin
from studies.volumes import load_label_map, load_volume, source_datasets
from tests.factories import ProjectFactory, member, store_datasets
from tests.inference.models_factory import LABELS, add_mask, ball_cohort, ball_map, ball_series, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


def plant(version, case, labels: np.ndarray, scores: dict[str, float]) -> None:
    """A prediction with this label map."""
    dataset = segmentation.write(source_datasets(case.image), labels, LABELS)
    series = store_datasets(version.model.project, [dataset], origin=Origin.MODEL)
    Prediction.objects.create(version=version, study=case.study, image=case.image, segmentation=series, scores=scores)


def test_planted_errors_give_the_figures_that_they_must(run_job):
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 4, freeze=False, dim=lambda seed: seed != 3)
    version = threshold_version(project)
    expected = {}
    for number, entry in enumerate(services.labelled_cases(reference, "", [])):
        case = entry.case
        truth = load_label_map(entry.segmentation, load_volume(case.image), LABELS)
        found = truth.copy()
        if number == 1:
            found = np.roll(truth, 1, axis=2)
        if number == 2:
            found[found == 2] = 0
        shared = ((found == 1) & (truth == 1)).sum()
        expected[case.name] = 2 * shared / ((found == 1).sum() + (truth == 1).sum())
        plant(version, case, found, {"Ball": 0.9, "Dim ball": [0.9, 0.8, 0.3, 0.1][number]})
    evaluation = services.start(version, cohort, split="", by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    evaluation.refresh_from_db()

    ball = {r.case.name: r.values["dice"] for r in CaseResult.objects.filter(structure="Ball")}
    assert ball == pytest.approx(expected)
    assert ball["C-0001"] == 1
    assert ball["C-0002"] < 1
    summary = evaluation.summary
    assert summary["Ball"]["dice"]["estimate"] == pytest.approx(np.mean(list(expected.values())))
    assert summary["Ball"]["auc"]["reason"] == "all 4 cases hold this structure"

    dim = {r.case.name: r for r in CaseResult.objects.filter(structure="Dim ball")}
    assert dim["C-0003"].values["dice"] == 0
    assert dim["C-0004"].values["dice"] is None
    assert (dim["C-0003"].present, dim["C-0003"].predicted) == (True, False)
    assert summary["Dim ball"]["case_sensitivity"]["estimate"] == pytest.approx(2 / 3)
    assert summary["Dim ball"]["case_specificity"]["estimate"] == 1
    assert summary["Dim ball"]["auc"]["estimate"] == 1
    assert summary["Dim ball"]["auc"]["lower"] is None  # a perfect separation has no variance
    assert evaluation.overlap["known"] is False
    assert job.result["structures"]["Ball"]["n"] == 4


def test_missing_predictions_are_made_first_and_the_figures_are_reproducible(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    version = threshold_version(project)
    first = services.start(version, cohort, by=None)
    job = run_job(first.job)
    assert job.state == "succeeded", job.cause
    assert Prediction.objects.count() == 2  # the test patients only
    assert any("no prediction yet" in text for text in job.log.values_list("text", flat=True))
    second = services.start(version, cohort, by=None)
    run_job(second.job)
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.summary == second.summary
    assert Prediction.objects.count() == 2
    report = services.report(first)
    assert report["n"] == 2
    assert len(report["cases"]) == 2
    assert set(report["cases"][0]["structures"]) == {"Ball", "Dim ball"}


def test_a_case_that_cannot_be_run_is_named_and_the_rest_is_evaluated(run_job):
    project = ProjectFactory()
    cohort = cohorts.create(project=project, name="Mixed", by=None)
    truths = []
    for seed, modality in enumerate(["CT", "MR", "CT"]):
        labels = ball_map(seed)
        image = ball_series(project, seed, labels, Modality=modality)
        case = cohorts.add_studies(cohort, [image.study]).cases[0]
        truths.append(cohorts.CaseTruth(case, add_mask(project, image, labels)))
    cohorts.create_reference(
        cohort, name="Truth", source=ReferenceStandard.Source.PHANTOM, labels=LABELS, cases=truths, by=None
    )
    evaluation = services.start(threshold_version(project), cohort, split="", by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    evaluation.refresh_from_db()
    assert evaluation.summary["Ball"]["dice"]["n"] == 2
    assert [case["case"] for case in evaluation.overlap["failed_cases"]] == ["C-0002"]


def test_what_cannot_be_started():
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 2, freeze=False)
    version = threshold_version(project)
    with pytest.raises(EvaluationError, match="not frozen"):
        services.start(version, cohort, by=None)
    with pytest.raises(EvaluationError, match="no split"):
        services.start(version, cohort, split="half", by=None)
    other = threshold_version(
        project, name="livers", labels=[{"number": 1, "name": "Liver"}, {"number": 2, "name": "X"}]
    )
    with pytest.raises(EvaluationError, match="finds Liver, X; the reference standard “Truth v1” holds Ball, Dim ball"):
        services.start(other, cohort, reference=reference, split="", by=None)
    foreign = threshold_version(ProjectFactory())
    with pytest.raises(EvaluationError, match="do not fit"):
        services.start(foreign, cohort, split="", by=None)
    assert not Evaluation.objects.exists()


def test_case_results_are_hidden_from_a_blinded_reader(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 2, freeze=False)
    reader, outsider = member(project, Role.READER), member(ProjectFactory(), Role.MANAGER)
    evaluation = services.start(threshold_version(project), cohort, split="", by=None)
    run_job(evaluation.job)
    case = cohort.cases.first()
    Embargo.objects.create(user=reader, study=case.study, reason="campaign:1")
    assert [entry["case"] for entry in services.report(evaluation, user=reader)["cases"]] == ["C-0002"]
    assert len(services.report(evaluation)["cases"]) == 2
    assert not CaseResult.objects.visible_to(outsider).exists()
