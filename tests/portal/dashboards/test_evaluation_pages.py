import csv
import re

import pytest
from django.urls import reverse

from inference.evaluation.models import Evaluation
from inference.evaluation.services import report
from inference.jobs.models import Job
from portal.accounts.models import Role
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.portal.rows import cohort_row, entry, evaluation_row, study_row, version_row

pytestmark = pytest.mark.django_db

SUMMARY = {
    "Liver": {
        "dice": entry(0.8734, 0.8611, 0.8842, 26, "BCa bootstrap"),
        "sensitivity": entry(0.9012, 0.88, 0.92, 26),
        "case_sensitivity": entry(0.9615, 0.8111, 0.9932, 26, "Wilson"),
        "case_specificity": {"estimate": None, "lower": None, "upper": None, "n": 0, "reason": "all 26 cases hold it"},
        "auc": {"estimate": None, "lower": None, "upper": None, "n": 26, "reason": "all 26 cases hold it"},
    }
}


@pytest.fixture
def project():
    return ProjectFactory(slug="organs", name="Organs")


@pytest.fixture
def engineer(project, client):
    user = member(project, Role.ENGINEER)
    client.force_login(user)
    return user


@pytest.fixture
def world(project):
    studies = [study_row(project, name=f"HIDDEN^NAME{number}") for number in range(4)]
    cohort, reference = cohort_row(project, studies, "Test set")
    version = version_row(project)
    evaluation = evaluation_row(
        version, reference, SUMMARY, [0.91, 0.40, 0.0, 0.88], overlap={"known": True, "patients": 2, "scanners": 0}
    )
    return {"studies": studies, "cohort": cohort, "reference": reference, "version": version, "evaluation": evaluation}


def text(response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def test_matrix_shows_the_stored_estimate_with_interval_and_n(client, engineer, world):
    page = client.get(reverse("evaluations"))
    assert "0.87 [0.86–0.88] n=26" in text(page)
    assert reverse("evaluation", args=[world["evaluation"].pk]) in page.content.decode()
    assert "2 patients are also in the training data" in text(page)


def test_matrix_switches_the_figure_and_says_why_there_is_none(client, engineer, world):
    assert "0.96 [0.81–0.99] n=26" in text(client.get(reverse("evaluations"), {"metric": "case_sensitivity"}))
    page = client.get(reverse("evaluations"), {"metric": "auc"})
    assert "all 26 cases hold it" in text(page)
    assert 'data-s="none"' in page.content.decode()


def test_a_few_cases_are_insufficient_data_without_colour(client, engineer, world):
    small = version_row(world["version"].model.project, number=2)
    evaluation_row(small, world["reference"], {"Liver": {"dice": entry(0.99, 0.98, 1.0, 6)}})
    page = client.get(reverse("evaluations"))
    cell = {version.pk: cells[0][1] for version, cells in page.context["matrix"].rows}[small.pk]
    assert cell.step == 0
    assert "insufficient data (n=6, needs 10)" in text(page)
    assert "0.99" not in text(page)


def test_an_empty_cell_starts_the_evaluation_for_those_who_may(client, project, engineer, world):
    version = version_row(project, number=2)
    page = client.get(reverse("evaluations")).content.decode()
    assert f"{reverse('evaluate_create')}?version={version.pk}&amp;cohort={world['cohort'].pk}" in page
    client.force_login(member(project, Role.VIEWER))
    page = client.get(reverse("evaluations"))
    assert reverse("evaluate_create") not in page.content.decode()
    assert "not run" in text(page)


def test_the_newest_finished_evaluation_counts_and_a_failed_one_does_not_hide_it(client, engineer, world):
    newer = evaluation_row(world["version"], world["reference"], {"Liver": {"dice": entry(0.91, 0.90, 0.92, 26)}})
    Evaluation.objects.create(version=world["version"], reference=world["reference"])
    page = client.get(reverse("evaluations")).content.decode()
    assert reverse("evaluation", args=[newer.pk]) in page
    assert reverse("evaluation", args=[world["evaluation"].pk]) not in page


def test_matrix_never_shows_another_tenants_models_or_cohorts(client, engineer, world):
    other = ProjectFactory(name="Foreign project")
    foreign = version_row(other, name="foreign-model")
    _, reference = cohort_row(other, [study_row(other)], "Foreign cohort")
    evaluation = evaluation_row(foreign, reference, SUMMARY)
    page = client.get(reverse("evaluations")).content.decode()
    assert "foreign-model" not in page
    assert "Foreign cohort" not in page
    assert client.get(reverse("evaluation", args=[evaluation.pk])).status_code == 404
    assert client.get(reverse("evaluation_cases", args=[evaluation.pk])).status_code == 404


def test_page_shows_exactly_what_the_command_prints(client, engineer, world):
    printed = report(world["evaluation"])
    shown = client.get(reverse("evaluation", args=[world["evaluation"].pk]))
    for name, figures in printed["summary"].items():
        assert name in text(shown)
        for key in ("dice", "sensitivity", "case_sensitivity"):
            value = figures[key]
            assert f"{value['estimate']:.3f} [{value['lower']:.3f}–{value['upper']:.3f}] n={value['n']}" in text(shown)
    drawn = shown.context["charts"][0]["spec"]["data"][0]["y"]
    assert sorted(drawn) == sorted(case["structures"]["Liver"]["dice"] for case in printed["cases"])
    assert "BCa bootstrap" in text(shown)


def test_page_says_why_there_is_no_roc_curve(client, engineer, world):
    page = client.get(reverse("evaluation", args=[world["evaluation"].pk]))
    assert page.context["roc"] is None
    assert "Liver : all 26 cases hold it" in text(page) or "Liver: all 26 cases hold it" in text(page)


def test_worst_cases_come_first_and_open_the_viewer(client, engineer, world):
    page = client.get(reverse("evaluation", args=[world["evaluation"].pk]))
    assert [item["result"].case.name for item in page.context["worst"]] == ["C-003", "C-002", "C-004", "C-001"]
    assert page.context["worst"][0]["kind"] == "missed"
    assert reverse("open_study", args=[world["studies"][2].pk]) in page.content.decode()


def test_a_patient_is_never_named_here(client, engineer, world):
    for url in (reverse("evaluation", args=[world["evaluation"].pk]), reverse("evaluations")):
        assert "HIDDEN" not in client.get(url).content.decode()


def test_csv_holds_every_case_by_pseudonym(client, engineer, world):
    response = client.get(reverse("evaluation_cases", args=[world["evaluation"].pk]))
    rows = list(csv.DictReader(response.content.decode().splitlines()))
    assert [(row["case"], row["dice"], row["predicted"]) for row in rows] == [
        ("C-001", "0.91", "1"),
        ("C-002", "0.4", "1"),
        ("C-003", "0.0", "0"),
        ("C-004", "0.88", "1"),
    ]
    assert "HIDDEN" not in response.content.decode()
    assert f"evaluation-{world['evaluation'].pk}-cases.csv" in response["Content-Disposition"]


def test_a_reader_in_a_blinded_campaign_does_not_see_the_models_result_of_that_case(client, project, world):
    reader = member(project, Role.READER)
    Embargo.objects.create(user=reader, study=world["studies"][1], reason="campaign:1")
    client.force_login(reader)
    page = client.get(reverse("evaluation", args=[world["evaluation"].pk]))
    assert {result.case.name for result in page.context["results"]} == {"C-001", "C-003", "C-004"}
    assert "1 case held back" in text(page)
    assert "C-002" not in client.get(reverse("evaluation_cases", args=[world["evaluation"].pk])).content.decode()


def test_a_failed_evaluation_says_cause_and_next_step(client, project, engineer, world):
    job = Job.objects.create(
        project=project,
        task="evaluate",
        title="Evaluate",
        queue="infer",
        state="failed",
        cause="No spacing.",
        next_step="Resend.",
    )
    failed = Evaluation.objects.create(version=world["version"], reference=world["reference"], job=job)
    page = text(client.get(reverse("evaluation", args=[failed.pk])))
    assert "No spacing." in page
    assert "Resend." in page


def test_number_of_queries_of_the_matrix_does_not_grow(client, project, engineer, world, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as few:
        client.get(reverse("evaluations"))
    for number in range(2, 12):
        evaluation_row(version_row(project, number=number), world["reference"], SUMMARY)
    for number in range(4):
        cohort_row(project, [study_row(project)], f"More {number}")
    with django_assert_num_queries(len(few)):
        client.get(reverse("evaluations"))
