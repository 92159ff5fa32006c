"""Deleting and moving a study over REST, as the page does it."""

from __future__ import annotations

import json

import pytest

from inference.routing.models import Look, RoutedStudy
from portal.accounts.models import Role
from studies.cohorts import services as cohorts
from studies.models import Instance, Study
from tests.factories import MembershipFactory, ProjectFactory, make_ct_series, member
from tests.portal.rows import prediction_row, version_row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


@pytest.fixture
def manager(project, client):
    user = member(project, Role.MANAGER)
    client.force_login(user)
    return user


@pytest.fixture
def study(project) -> Study:
    return make_ct_series(project, 3).study


@pytest.fixture
def send(client):
    def sent(method: str, url: str, **body):
        return client.generic(method, url, json.dumps(body), content_type="application/json")

    return sent


def test_a_study_goes_only_when_its_uid_is_said(manager, send, project, study):
    prediction_row(version_row(project), study)
    RoutedStudy.objects.create(rule_name="Lungs", study=study, outcome="skipped", reason="Because.", told=True)
    Look.objects.create(study=study, number_of_instances=3)
    url = f"/api/studies/{study.pk}/"
    stakes = send("GET", f"{url}stakes/").json()
    assert (stakes["contents"]["objects"], stakes["results"], stakes["obstacles"]) == (3, 1, [])
    assert send("DELETE", url).status_code == 400
    assert send("DELETE", url, confirm="1.2.3").status_code == 400
    assert Study.objects.filter(pk=study.pk).exists()
    assert send("DELETE", url, confirm=study.study_instance_uid).status_code == 204
    assert not Study.objects.filter(pk=study.pk).exists()
    assert not Instance.objects.exists()
    assert send("GET", url).status_code == 404


def test_what_rests_on_it_keeps_it_with_the_reason(manager, send, project, study):
    cohort = cohorts.create(project=project, name="Frozen", by=None)
    cohorts.add_studies(cohort, [study])
    cohorts.freeze(cohort, by=None, fractions={"train": 1.0, "validation": 0.0, "test": 0.0})
    other = ProjectFactory(slug="other")
    MembershipFactory(project=other, user=manager, role=Role.MANAGER)
    for answer in (
        send("DELETE", f"/api/studies/{study.pk}/", confirm=study.study_instance_uid),
        send("POST", f"/api/studies/{study.pk}/move/", project="other"),
    ):
        assert answer.status_code == 409
        assert "is frozen" in answer.json()["cause"]
    assert Study.objects.get().project == project


def test_it_moves_only_into_a_project_that_one_manages(manager, send, project, study):
    other = ProjectFactory(slug="other")
    url = f"/api/studies/{study.pk}/move/"
    assert send("POST", url, project="other").status_code == 404
    place = MembershipFactory(project=other, user=manager, role=Role.ENGINEER)
    assert send("POST", url, project="other").status_code == 409
    place.role = Role.MANAGER
    place.save()
    moved = send("POST", url, project="other")
    assert (moved.status_code, moved.json()["project"]) == (200, "other")
    assert set(Instance.objects.values_list("project", flat=True)) == {other.pk}
