from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from portal.accounts.models import Role
from studies.cohorts.clinical import ClinicalValue, TableImport
from studies.duplicates.models import Pair
from studies.models import Patient
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="ward")


def test_a_table_is_imported_over_rest_after_its_problems_are_settled(client, project):
    Patient.objects.create(project=project, patient_id="P1")
    client.force_login(member(project, Role.ENGINEER))
    file = SimpleUploadedFile("labs.csv", b"PatientID,seen,CRP\nP1,03/04/2020,5\nP9,05/06/2020,6\n")
    made = client.post("/api/table-imports/", {"project": "ward", "file": file})
    assert made.status_code == 201, made.content
    url = f"/api/table-imports/{made.json()['id']}/"
    problems = client.get(f"{url}preview/").json()["problems"]
    assert [(one["code"], one["row"], one["column"]) for one in problems] == [
        ("ambiguous_dates", 2, "seen"), ("unknown_patient_id", 3, "PatientID"),
    ]  # fmt: skip
    refused = client.post(f"{url}finish/", {}, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (409, "problems")
    choices = made.json()["choices"]
    choices["columns"][1]["dates"] = "dmy"
    choices["unknown"] = "skip"
    assert client.post(f"{url}choose/", {"choices": choices}, content_type="application/json").status_code == 200
    done = client.post(f"{url}finish/", {}, content_type="application/json").json()
    assert (done["done"], done["new"], done["skipped"]) == (True, 2, 1)
    values = client.get("/api/clinical-values/", {"project": "ward"}).json()["results"]
    assert {value["variable"]: value["date"] or value["number"] for value in values} == {"seen": "2020-04-03", "CRP": 5}
    assert {one["name"]: one["values"] for one in client.get("/api/clinical-variables/").json()["results"]} == {
        "seen": 1, "CRP": 1,
    }  # fmt: skip


@pytest.mark.parametrize("choices", [7, {"columns": 3}, {"columns": [{"nome": "x"}]}, {"columns": [{"name": "gone"}]}])
def test_choices_that_make_no_sense_are_refused(client, project, choices):
    Patient.objects.create(project=project, patient_id="P1")
    client.force_login(member(project, Role.ENGINEER))
    file = SimpleUploadedFile("labs.csv", b"PatientID,CRP\nP1,5\n")
    pk = client.post("/api/table-imports/", {"project": "ward", "file": file}).json()["id"]
    url = f"/api/table-imports/{pk}/"
    answer = client.post(f"{url}choose/", {"choices": choices}, content_type="application/json")
    assert answer.status_code == 400 or client.get(f"{url}preview/").status_code == 409
    assert not ClinicalValue.objects.exists()


def test_a_file_that_is_no_table_is_refused_with_its_cause(client, project):
    client.force_login(member(project, Role.ENGINEER))
    answer = client.post(
        "/api/table-imports/", {"project": "ward", "file": SimpleUploadedFile("x.csv", b"a,b\n1,\x002\n")}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "encoding")
    assert not TableImport.objects.exists()


def test_a_pair_is_dismissed_by_who_curates_both_sides(client, project):
    one, other = make_ct_series(project, 1), make_ct_series(ProjectFactory(slug="other"), 1)
    pair = Pair.objects.create(one=one, other=other, distance=0)
    user = member(project, Role.ENGINEER)
    other.study.project.memberships.create(user=user, role=Role.VIEWER)
    client.force_login(user)
    url = f"/api/near-duplicates/{pair.pk}/settle/"
    assert client.post(url, {"same": False}, content_type="application/json").status_code == 403
    other.study.project.memberships.filter(user=user).update(role=Role.MANAGER)
    assert client.post(url, {"same": False}, content_type="application/json").json()["state"] == "dismissed"
    client.force_login(UserFactory())
    assert client.post(url, {"same": True}, content_type="application/json").status_code == 404
