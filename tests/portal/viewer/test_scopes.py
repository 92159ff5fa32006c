"""Which part of the archive a viewer page reads, and that other tenants' parts are not there."""

import json

import pytest
from django.urls import reverse

from portal.accounts.models import Role
from studies.models import Origin, Series
from tests.factories import ProjectFactory, UserFactory, ct_datasets, member, store_datasets

pytestmark = pytest.mark.django_db


@pytest.fixture
def study():
    return store_datasets(ProjectFactory(), ct_datasets(1)).study


def facts(response) -> dict:
    text = response.content.decode()
    return json.loads(text[len("window.readroom = ") : text.index(";\n")])


@pytest.mark.parametrize("role", list(Role))
def test_every_member_opens_a_study_on_its_projects_root(client, study, viewer, role):
    client.force_login(member(study.project, role))
    response = client.get(reverse("open_study", args=[study.pk]))
    assert response["Location"] == (
        f"/viewer/p/{study.project.slug}/readroom?StudyInstanceUIDs={study.study_instance_uid}"
    )
    assert client.get(response["Location"]).status_code == 200
    config = client.get(f"/viewer/p/{study.project.slug}/app-config.js")
    assert facts(config)["dicomwebRoot"] == f"/dicomweb/projects/{study.project.slug}"
    assert facts(config)["base"] == f"/viewer/p/{study.project.slug}/"
    assert config["Cache-Control"] == "no-store"


def test_another_projects_study_is_not_there(client, study, viewer):
    client.force_login(member(ProjectFactory()))
    slug = study.project.slug
    for path in [
        reverse("open_study", args=[study.pk]),
        f"/viewer/p/{slug}/readroom",
        f"/viewer/p/{slug}/app-config.js",
        f"/viewer/p/{slug}/results/{study.study_instance_uid}/",
        f"/viewer/results/{study.study_instance_uid}/",
    ]:
        assert client.get(path).status_code == 404, path


def test_a_task_and_the_general_page_read_their_own_roots(client, viewer):
    client.force_login(UserFactory())
    assert facts(client.get("/viewer/tasks/7/app-config.js"))["dicomwebRoot"] == "/dicomweb/tasks/7"
    assert facts(client.get("/viewer/tasks/7/app-config.js"))["kind"] == "task"
    assert facts(client.get("/viewer/app-config.js"))["dicomwebRoot"] == "/dicomweb"


def test_the_legend_tells_models_from_people_and_hides_other_readers(client, study, viewer):
    reader, other = member(study.project, Role.READER), member(study.project, Role.READER)
    rows = [
        ("1.2.1", Origin.MODEL, "Hippocampus U-Net v3", None),
        ("1.2.2", Origin.ANNOTATION, "Campaign A", reader),
        ("1.2.3", Origin.ANNOTATION, "Campaign A", other),
        ("1.2.4", Origin.REFERENCE, "Reference v1", None),
    ]
    for uid, origin, provenance, by in rows:
        Series.objects.create(
            study=study,
            series_instance_uid=uid,
            modality="SEG",
            origin=origin,
            provenance=provenance,
            created_by=by,
        )
    client.force_login(reader)
    path = f"/viewer/p/{study.project.slug}/results/{study.study_instance_uid}/"
    seen = {result["series"]: result for result in client.get(path).json()["results"]}
    assert set(seen) == {"1.2.1", "1.2.2"}
    assert seen["1.2.1"]["origin"] == "model"
    assert seen["1.2.1"]["provenance"] == "Hippocampus U-Net v3"
    assert seen["1.2.2"]["own"] is True
    client.force_login(member(study.project, Role.MANAGER))
    assert {result["series"] for result in client.get(path).json()["results"]} == {"1.2.1", "1.2.2", "1.2.3", "1.2.4"}
