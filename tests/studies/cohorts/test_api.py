from __future__ import annotations

import pytest

from portal.accounts.models import Role
from studies.cohorts import services
from studies.cohorts.models import Cohort
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def engineer(project):
    return member(project, Role.ENGINEER)


def test_a_cohort_is_made_filled_and_frozen(client, project, engineer):
    client.force_login(engineer)
    made = client.post("/api/cohorts/", {"project": "chest", "name": "A"}, content_type="application/json")
    assert made.status_code == 201, made.content
    pk = made.json()["id"]
    studies = [make_ct_series(project, 1, PatientID=f"P{n}").study for n in range(3)]
    added = client.post(
        f"/api/cohorts/{pk}/add_studies/",
        {"studies": [study.pk for study in studies]},
        content_type="application/json",
    ).json()
    assert [case["study"] for case in added["cases"]] == [study.pk for study in studies]
    frozen = client.post(f"/api/cohorts/{pk}/freeze/", {"seed": 5}, content_type="application/json").json()
    assert (frozen["frozen"], frozen["seed"], frozen["cases"]) == (True, 5, 3)
    assert frozen["splits"] == {"train": 1, "validation": 1, "test": 1}
    again = client.post(f"/api/cohorts/{pk}/freeze/", {}, content_type="application/json")
    assert (again.status_code, again.json()["code"]) == (409, "frozen")
    cases = client.get(f"/api/cohorts/{pk}/cases/").json()["results"]
    assert {case["split"] for case in cases} == {"train", "validation", "test"}


def test_the_list_holds_own_cohorts_in_a_fixed_number_of_queries(
    client, project, engineer, django_assert_max_num_queries
):
    own = [services.create(project=project, name=f"A{n}", by=None) for n in range(4)]
    services.add_studies(own[0], [make_ct_series(project, 1).study])
    services.create(project=ProjectFactory(), name="B", by=None)
    client.force_login(engineer)
    with django_assert_max_num_queries(9):
        listed = client.get("/api/cohorts/").json()["results"]
    assert {one["id"] for one in listed} == {cohort.pk for cohort in own}
    assert {one["id"]: one["cases"] for one in listed}[own[0].pk] == 1


def test_readers_see_pseudonyms_without_studies(client, project):
    cohort = services.create(project=project, name="A", by=None)
    services.add_studies(cohort, [make_ct_series(project, 1).study])
    client.force_login(member(project, Role.READER))
    (case,) = client.get(f"/api/cohorts/{cohort.pk}/cases/").json()["results"]
    assert (case["name"], case["study"], case["image"]) == ("C-0001", None, None)


@pytest.mark.parametrize(("who", "status"), [("reader", 403), ("viewer", 403), ("outsider", 404), ("nobody", 401)])
def test_others_cannot_change_anything(client, project, who, status):
    cohort = services.create(project=project, name="A", by=None)
    study = make_ct_series(project, 1).study
    if who != "nobody":
        client.force_login(UserFactory() if who == "outsider" else member(project, Role(who)))
    for url, body in (
        (f"/api/cohorts/{cohort.pk}/add_studies/", {"studies": [study.pk]}),
        (f"/api/cohorts/{cohort.pk}/freeze/", {}),
        ("/api/cohorts/", {"project": "chest", "name": "B"}),
    ):
        answer = client.post(url, body, content_type="application/json")
        assert answer.status_code in ((401, 403) if who == "nobody" else (status,)), url
    assert Cohort.objects.count() == 1
    assert not cohort.cases.exists()


def test_studies_of_a_foreign_project_are_not_found(client, project, engineer):
    cohort = services.create(project=project, name="A", by=None)
    foreign = make_ct_series(ProjectFactory(), 1).study
    client.force_login(engineer)
    answer = client.post(
        f"/api/cohorts/{cohort.pk}/add_studies/", {"studies": [foreign.pk]}, content_type="application/json"
    )
    assert answer.status_code == 404
