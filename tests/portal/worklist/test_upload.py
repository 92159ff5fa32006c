"""Uploads by page and API: outcomes, permissions, and what hostile files show."""

from __future__ import annotations

import io
import zipfile

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from portal.accounts.models import Role, User
from studies.models import ImportBatch, Instance, Study
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return factories.ProjectFactory(slug="lung")


@pytest.fixture
def alice(project, client):
    user = factories.member(project, Role.ENGINEER, username="alice")
    client.force_login(user)
    return user


def upload(name, data):
    return SimpleUploadedFile(name, data)


def test_files_and_archives_get_an_outcome_each(client, alice, project):
    a, b, c = (factories.part10_bytes(d) for d in factories.ct_datasets(3))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("in/b.dcm", b)
        out.writestr("in/c.dcm", c)
    files = [
        upload("a.dcm", a),
        upload("all.zip", archive.getvalue()),
        upload("a.dcm", a),
        upload("x.txt", b"text" * 50),
    ]
    names = ["folder/a.dcm", "all.zip", "copy/a.dcm", "x.txt"]
    answer = client.post("/api/import/", {"project": "lung", "files": files, "names": names})
    assert answer.status_code == 201
    found = answer.json()
    assert (found["stored"], found["duplicate"], found["refused"]) == (3, 1, 1)
    assert [(f["name"], f["state"], f["code"]) for f in found["files"]] == [
        ("folder/a.dcm", "stored", ""),
        ("all.zip/in/b.dcm", "stored", ""),
        ("all.zip/in/c.dcm", "stored", ""),
        ("copy/a.dcm", "duplicate", ""),
        ("x.txt", "refused", "not_dicom"),
    ]
    assert found["studies"] == [
        {
            "id": Study.objects.get().pk,
            "study_instance_uid": Study.objects.get().study_instance_uid,
            "number_of_series": 1,
            "number_of_instances": 3,
        }
    ]
    more = client.post(
        "/api/import/", {"batch": found["batch"], "files": [upload("d", factories.part10_bytes(factories.ct_slice()))]}
    )
    assert more.json()["batch"] == found["batch"]
    batch = ImportBatch.objects.get()
    assert (batch.stored, batch.duplicate, batch.refused, batch.created_by) == (4, 1, 1, alice)
    assert client.get(f"/api/import/{batch.pk}/").json()["refusals"][0]["code"] == "not_dicom"


def test_who_may_upload(client, alice, project):
    data = factories.part10_bytes(factories.ct_slice())
    batch = client.post("/api/import/", {"project": "lung", "files": [upload("a", data)]}).json()["batch"]
    for role, status in ((Role.READER, 403), (Role.VIEWER, 403), (Role.MANAGER, 201)):
        client.force_login(factories.member(project, role))
        answer = client.post("/api/import/", {"project": "lung", "files": [upload("a", data)]})
        assert answer.status_code == status, role
        # nobody continues another's import
        assert client.post("/api/import/", {"batch": batch, "files": [upload("a", data)]}).status_code == 404
    client.force_login(factories.member(factories.ProjectFactory()))
    assert client.post("/api/import/", {"project": "lung", "files": [upload("a", data)]}).status_code == 404
    assert client.get(f"/api/import/{batch}/").status_code == 404
    client.logout()
    assert client.post("/api/import/", {"project": "lung", "files": [upload("a", data)]}).status_code in (401, 403)
    assert Instance.objects.count() == 1


def test_pages_by_role(client, project):
    batch = factories.store.open_batch(project, ImportBatch.Source.COMMAND)
    factories.store.store_file(b"x" * 500, batch=batch, name="<script>alert(1)</script>.dcm")
    pages = ["/upload/", f"/imports/{batch.pk}/"]
    for role, status in ((Role.MANAGER, 200), (Role.ENGINEER, 200), (Role.READER, 403), (Role.VIEWER, 403)):
        client.force_login(factories.member(project, role))
        assert [client.get(page).status_code for page in pages] == [status, status], role
    client.force_login(factories.member(factories.ProjectFactory(), Role.MANAGER))
    assert [client.get(page).status_code for page in pages] == [200, 404]


def test_hostile_names_are_shown_escaped(client, alice, project):
    batch = factories.store.open_batch(project, ImportBatch.Source.COMMAND)
    factories.store.store_file(b"x" * 500, batch=batch, name="<script>alert(1)<script>.dcm")
    series = factories.make_ct_series(project, 1, PatientName="<script>alert(2)</script>", PatientID="<b>P</b>")
    pages = [
        f"/imports/{batch.pk}/",
        "/studies/",
        f"/studies/{series.study_id}/",
        f"/patients/{series.study.patient_id}/",
    ]
    for page in pages:
        text = client.get(page).content.decode()
        assert "<script>alert" not in text, page
        assert "<b>P</b>" not in text, page
    assert "&lt;script&gt;alert(1)" in client.get(pages[0]).content.decode()


def test_thumbnails(client, alice, project):
    series = factories.make_ct_series(project, 3)
    for page in (f"/series/{series.pk}/thumbnail/", f"/studies/{series.study_id}/thumbnail/"):
        first = client.get(page)
        assert (first.status_code, first["Content-Type"], first.content[:2]) == (200, "image/jpeg", b"\xff\xd8")
        assert client.get(page, HTTP_IF_NONE_MATCH=first["ETag"]).status_code == 304
        assert client.get(page).content == first.content
    report = factories.make_ct_series(
        project, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR", PixelData=None, Rows=None
    )
    plain = client.get(f"/series/{report.pk}/thumbnail/")
    assert plain["Content-Type"] == "image/svg+xml"
    assert b">SR<" in plain.content
    client.force_login(factories.member(factories.ProjectFactory()))
    assert client.get(f"/series/{series.pk}/thumbnail/").status_code == 404
    assert client.get(f"/studies/{series.study_id}/thumbnail/").status_code == 404


def test_studies_and_series_over_rest(client, alice, project):
    series = factories.make_ct_series(project, 2)
    other = factories.make_ct_series(factories.ProjectFactory(), 1)
    found = client.get("/api/studies/").json()["results"]
    assert [(s["id"], s["project"], s["patient_id"]) for s in found] == [(series.study_id, "lung", "P1")]
    assert client.get(f"/api/studies/{other.study_id}/").status_code == 404
    found = client.get(f"/api/series/?study={series.study_id}").json()["results"]
    assert [(s["id"], s["modality"], s["number_of_instances"], s["origin"]) for s in found] == [
        (series.pk, "CT", 2, "acquired")
    ]
    assert client.get(f"/api/series/{other.pk}/").status_code == 404
    assert client.get("/api/series/?study=x").status_code == 400


def test_pages_that_no_list_reaches_are_empty(client, alice):
    client.force_login(alice)
    huge = "9" * 30
    answer = client.get("/api/studies/", {"limit": huge, "offset": huge})
    assert answer.status_code == 200
    assert answer.json()["results"] == []


def test_an_administrator_without_projects_is_sent_to_make_one(client):
    client.force_login(User.objects.create_superuser("root"))
    answer = client.get("/upload/")
    assert (answer.status_code, answer["Location"]) == (302, "/projects/")


def test_recent_imports_hold_what_was_brought_in_not_what_readers_and_models_made(client, alice, project):
    brought = factories.store.open_batch(project, ImportBatch.Source.STOW, alice)
    made = [factories.store.open_batch(project, source, alice) for source in ("reading", "model")]
    for page in ("/upload/", f"/projects/{project.slug}/"):
        text = client.get(page).content.decode()
        assert f"/imports/{brought.pk}/" in text, page
        assert not any(f"/imports/{batch.pk}/" in text for batch in made), page
