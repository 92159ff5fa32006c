"""Models, versions and promotions in the browser."""

from __future__ import annotations

import pytest

from inference.registry.models import Promotion
from portal.accounts.models import Role
from tests.portal.rows import cohort_row, entry, evaluation_row, prediction_row, study_row, version_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(project):
    version = version_row(project)
    version.manifest |= {
        "card": {"intended_use": "Outlines the liver.", "limits": "Adults only."},
        "training": {
            "cohort": "Livers 2026",
            "reference": "Tracings v1",
            "training_cases": 40,
            "training_patients": 38,
        },
    }
    version.save()
    return version


def evaluated(project, version):
    study = study_row(project)
    _, reference = cohort_row(project, [study])
    prediction_row(version, study)
    return evaluation_row(
        version, reference, {"Liver": {"dice": entry(0.873, 0.861, 0.884, 52)}}, [0.87], overlap={"patients": 0}
    )


def test_estimates_carry_interval_and_n_on_every_page(browser, project, version):
    evaluated(project, version)
    client = browser(Role.VIEWER)
    for address in ("/models/", f"/models/{version.model_id}/", f"/models/versions/{version.pk}/"):
        page = client.get(address).content.decode()
        assert '<b>0.87</b> <span class="ci">[0.86–0.88]</span> <span class="n">n=52</span>' in page, address


def test_card_says_use_limits_training_and_results(browser, project, version):
    evaluated(project, version)
    page = browser(Role.VIEWER).get(f"/models/versions/{version.pk}/").content.decode()
    for words in (
        "Outlines the liver.",
        "Adults only.",
        "Livers 2026",
        "Tracings v1",
        "40 of 38 patients",
        "no patient",
    ):
        assert words in page
    assert "Research use, not a medical device" in page
    assert '<b class="num">1</b> result on 1 study' in page


def test_version_without_evaluation_says_so(browser, version):
    page = browser(Role.ENGINEER).get(f"/models/versions/{version.pk}/").content.decode()
    assert "Not evaluated yet" in page
    assert f"/evaluations/new/?version={version.pk}" in page


def test_promotion_is_signed_with_a_reason(browser, project, version):
    client = browser(Role.MANAGER)
    answer = client.post(f"/models/versions/{version.pk}/promote/", {"to": "production", "reason": " "})
    assert answer.status_code == 422
    assert "Write in a sentence why." in answer.content.decode()
    assert not Promotion.objects.exists()
    page = client.post(
        f"/models/versions/{version.pk}/promote/", {"to": "production", "reason": "Meets the plan."}, follow=True
    ).content.decode()
    assert "“Meets the plan.”" in page
    signed = Promotion.objects.get()
    assert (signed.from_stage, signed.to_stage, signed.by.username) == ("candidate", "production", "manager-Brain")
    version.refresh_from_db()
    assert version.stage == "production"


def test_impossible_stage_is_refused(browser, version):
    answer = browser(Role.MANAGER).post(
        f"/models/versions/{version.pk}/promote/", {"to": "candidate", "reason": "Back to start."}
    )
    assert answer.status_code == 422
    version.refresh_from_db()
    assert version.stage == "candidate"


def test_only_managers_see_the_form(browser, version):
    assert "Sign as" in browser(Role.MANAGER).get(f"/models/versions/{version.pk}/").content.decode()
    assert "Sign as" not in browser(Role.ENGINEER).get(f"/models/versions/{version.pk}/").content.decode()


def test_pages_cost_the_same_for_many_versions(browser, project, django_assert_max_num_queries):
    study = study_row(project)
    _, reference = cohort_row(project, [study])
    versions = [version_row(project, number=number) for number in range(1, 13)]
    for version in versions:
        evaluation_row(version, reference, {"Liver": {"dice": entry(0.9, 0.8, 0.95, 30)}})
    client = browser(Role.ENGINEER)
    for address in ("/models/", f"/models/{versions[0].model_id}/"):
        with django_assert_max_num_queries(20):
            client.get(address)
