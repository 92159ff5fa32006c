"""The page of an evaluated classifier: confusion matrix, operating points with Wilson's intervals, every case."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.summary import CaseFigures, summarise
from portal.accounts.models import Role
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.portal.rows import cohort_row, study_row, version_row

pytestmark = pytest.mark.django_db
# p(Nodule) of cases with and without a nodule: at 0.5 three of four found, five of six left.
WITH, WITHOUT = (0.9, 0.8, 0.6, 0.3), (0.1, 0.2, 0.2, 0.3, 0.4, 0.7)


def text(response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


@pytest.fixture
def world(client):
    project = ProjectFactory()
    user = member(project, Role.VIEWER)
    client.force_login(user)
    studies = [study_row(project) for _ in range(len(WITH) + len(WITHOUT))]
    cohort, reference = cohort_row(project, studies)
    version = version_row(project, name="nodules", task="classification")
    version.manifest = {
        "task": "classification",
        "labels": [{"number": 1, "name": "Nodule"}, {"number": 2, "name": "None"}],
        "output": {"activation": "softmax", "threshold": 0.5},
    }
    version.save()
    evaluation = Evaluation.objects.create(version=version, reference=reference, finished_at=reference.created_at)
    figures: dict[str, list[CaseFigures]] = {"Nodule": [], "None": []}
    for number, (case, score) in enumerate(zip(cohort.cases.order_by("name"), WITH + WITHOUT, strict=True)):
        for name, share in (("Nodule", score), ("None", 1 - score)):
            present = (number < len(WITH)) == (name == "Nodule")
            CaseResult.objects.create(
                evaluation=evaluation, case=case, structure=name, present=present, predicted=share > 0.5, score=share
            )
            figures[name].append(CaseFigures(case.name, number, present, share > 0.5, share, {}))
    evaluation.summary = {name: summarise(cases) for name, cases in figures.items()}
    evaluation.save()
    return user, evaluation, studies


def test_confusion_matrix_and_figures_of_the_likeliest_class(client, world):
    _, evaluation, _ = world
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    rows = {row["name"]: dict(row["counts"]) for row in page.context["confusion"]}
    assert rows == {"Nodule": {"Nodule": 3, "None": 1}, "None": {"Nodule": 1, "None": 5}}
    words = text(page)
    assert "0.80" in words  # accuracy, 8 of 10
    assert "n=10 of 10 patients, BCa bootstrap" in words
    assert "0.75 [0.30–0.95] n=4" in words  # Wilson of 3 of 4
    assert "DeLong" in words
    assert "Dice" not in words


def test_a_chosen_threshold_shows_its_sensitivity_and_specificity(client, world):
    _, evaluation, _ = world
    address = reverse("evaluation", args=[evaluation.pk])
    low = client.get(address, {"class": "Nodule", "threshold": "0.25"})
    point = low.context["point"]["counts"]
    assert (point.tp, point.fn, point.fp, point.tn) == (4, 0, 3, 3)
    assert "1.00 [0.51–1.00] n=4" in text(low)  # Wilson of 4 of 4
    names = [item["name"] for item in low.context["suggested"]]
    assert names[0] == "The model's own"
    youden = low.context["suggested"][1]["counts"]
    assert (youden.threshold, youden.tp, youden.fp) == (0.6, 3, 1)
    other = client.get(address, {"class": "None", "threshold": "0,5"}).context
    assert (other["chosen"], other["point"]["counts"].tp) == ("None", 5)
    for odd in ("x", "nan", "7", "-3"):
        assert client.get(address, {"class": "Absent", "threshold": odd}).status_code == 200


def test_cases_are_listed_exported_and_held_back_from_a_blinded_reader(client, world):
    user, evaluation, studies = world
    address = reverse("evaluation_cases", args=[evaluation.pk])
    lines = client.get(address).content.decode().splitlines()
    assert lines[0] == "case,truth,called,p(Nodule),p(None)"
    assert len(lines) == 11
    Embargo.objects.create(user=user, study=studies[0])
    assert len(client.get(address).content.decode().splitlines()) == 10
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    assert "1 case held back" in text(page)
    assert page.context["point"]["counts"].tp == 2
    assert "n=10 of 10 patients" in text(page)


def test_the_matrix_shows_a_classifier_s_auc_by_name(client, world):
    assert "AUC, Nodule" in text(client.get(reverse("evaluations")))
