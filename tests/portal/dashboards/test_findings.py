"""The page of an evaluated detector: FROC with intervals, figures at the operating threshold, every case."""

from __future__ import annotations

import re

import numpy as np
import pytest
from django.urls import reverse

from inference.evaluation import detection
from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.summary import CaseFigures
from portal.accounts.models import Role
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.portal.rows import cohort_row, study_row, version_row

pytestmark = pytest.mark.django_db
LESION = np.array([[[0, 0, 0], [4, 4, 4]]])
BESIDE = np.array([[9, 9, 9], [12, 12, 12]])


def text(response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def figures(number: int, found: list[float], false: list[float], lesions: int) -> CaseFigures:
    boxes = np.array([LESION[0]] * len(found) + [BESIDE] * len(false))
    values = detection.compare(boxes, found + false, LESION[:lesions], 0.5)
    scores = found + false
    return CaseFigures(
        f"C{number}", number, lesions > 0, max(scores, default=0) >= 0.5, max(scores, default=0.0), values
    )


@pytest.fixture
def world(client):
    """12 cases: 6 with a lesion of which 4 are found from 0.5 on, one below it and one never; 3 false boxes."""
    project = ProjectFactory()
    user = member(project, Role.VIEWER)
    client.force_login(user)
    studies = [study_row(project) for _ in range(12)]
    cohort, reference = cohort_row(project, studies)
    version = version_row(project, name="nodules", task="detection")
    version.manifest = {"task": "detection", "labels": [{"number": 1, "name": "Nodule"}], "output": {"threshold": 0.5}}
    version.save()
    evaluation = Evaluation.objects.create(version=version, reference=reference, finished_at=reference.created_at)
    plan = (
        [([0.9], [], 1)] * 4 + [([0.3], [0.6], 1), ([], [], 1)] + [([], [0.7], 0), ([], [0.55], 0)] + [([], [], 0)] * 4
    )
    made = [figures(number, *entry) for number, entry in enumerate(plan)]
    for case, figure in zip(cohort.cases.order_by("name"), made, strict=True):
        CaseResult.objects.create(
            evaluation=evaluation, case=case, structure="Nodule", present=figure.present, predicted=figure.predicted,
            score=figure.score, values=figure.values,
        )  # fmt: skip
    evaluation.summary = {"Nodule": detection.summarise(made)}
    evaluation.save()
    return user, evaluation, studies


def test_the_page_shows_froc_with_intervals_and_how_boxes_are_matched(client, world):
    _, evaluation, _ = world
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    words = text(page)
    # 4 of 6 found before the first false box; the fifth at 0.3, with 3 false boxes in 12 images.
    assert "FROC score, Nodule" in words
    rates = {row["rate"]: row["entries"][0]["figure"]["estimate"] for row in page.context["rates"]}
    assert rates["1/8"] == pytest.approx(4 / 6)
    assert rates["1"] == pytest.approx(5 / 6)
    assert "intersection over union is 0.1 or more" in words
    assert "bootstrap over 12 patients" in words
    curve, bars, cross = page.context["froc"]["data"]
    assert (cross["x"], cross["y"]) == ([3 / 12], [pytest.approx(4 / 6)])
    assert (max(curve["y"]), len(bars["x"])) == (pytest.approx(5 / 6), 7)
    entry = page.context["levels"][0]["entry"]
    assert entry["lesion_sensitivity"]["estimate"] == pytest.approx(4 / 6)
    assert entry["false_positives_per_image"]["estimate"] == pytest.approx(3 / 12)
    # Each of 6 lesions against each of 6 images without: four at 0.9 beat all, one at 0.3 beats the four empty ones,
    # the one never found ties with them.
    afroc = evaluation.summary["Nodule"]["afroc"]
    assert afroc["estimate"] == pytest.approx((4 * 6 + 4 + 0.5 * 4) / 36)
    assert f"{afroc['estimate']:.2f}" in words


def test_another_threshold_can_be_looked_at_and_each_rate_says_from_which_score_it_holds(client, world):
    _, evaluation, _ = world
    address = reverse("evaluation", args=[evaluation.pk])
    page = client.get(address, {"threshold": "0,2"})
    entry = page.context["levels"][0]["entry"]
    assert entry["lesion_sensitivity"]["estimate"] == pytest.approx(5 / 6)
    assert entry["lesion_sensitivity"]["lower"] < 5 / 6 < entry["lesion_sensitivity"]["upper"]
    assert entry["false_positives_per_image"]["estimate"] == pytest.approx(3 / 12)
    page = client.get(address, {"threshold": 0.65})
    entry = page.context["levels"][0]["entry"]
    assert entry["lesion_sensitivity"]["estimate"] == pytest.approx(4 / 6)
    assert entry["false_positives_per_image"]["estimate"] == pytest.approx(1 / 12)
    # By case: 4 of 6 are called, one of the six without a lesion is called.
    assert entry["case_sensitivity"]["estimate"] == pytest.approx(4 / 6)
    assert entry["case_specificity"]["estimate"] == pytest.approx(5 / 6)
    assert "the model’s own: 0.50" in text(page)
    assert client.get(address, {"threshold": "x"}).context["own"]
    # One false box in 12 images lies above 0.6, two above 0.55, three above all that was found.
    scores = {row["rate"]: row["entries"][0]["threshold"] for row in page.context["rates"]}
    assert (scores["1/8"], scores["1/4"], scores["1"]) == (0.7, 0.3, 0.3)


def test_missed_lesions_come_first_and_the_cases_can_be_taken_away(client, world):
    _, evaluation, _ = world
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    assert [(row["missed"], row["false"]) for row in page.context["worst"]] == [(1, 1), (1, 0), (0, 1), (0, 1)]
    rows = client.get(reverse("evaluation_cases", args=[evaluation.pk])).content.decode("utf-8-sig").splitlines()
    assert rows[0].split(",") == ["case", "label", "lesions", "found", "false_positives", "score"]
    assert len(rows) == 13


def test_cases_of_an_open_blinded_reading_are_neither_listed_nor_in_the_curve(client, world):
    user, evaluation, studies = world
    Embargo.objects.create(user=user, study=studies[0])
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    assert "1 case held back" in text(page)
    assert len(page.context["results"]) == 11
    assert max(page.context["froc"]["data"][0]["y"]) == pytest.approx(4 / 5)


def test_the_page_asks_the_database_no_more_for_more_cases(client, world, django_assert_max_num_queries):
    _, evaluation, _ = world
    client.get(reverse("evaluation", args=[evaluation.pk]))
    with django_assert_max_num_queries(30):
        client.get(reverse("evaluation", args=[evaluation.pk]))


def test_the_matrix_shows_the_froc_score_of_detectors(client, world):
    for address in ("", "?metric=froc_score"):
        page = client.get(reverse("evaluations") + address)
        assert "0.81" in text(page)  # mean of 4/6 at 1/8 and 5/6 at the six higher rates
