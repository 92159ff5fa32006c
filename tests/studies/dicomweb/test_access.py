"""Who gets in, and what outsiders see: nothing."""

from __future__ import annotations

import base64

import pytest
from django.test import Client

from portal.accounts.models import Role
from portal.accounts.services import issue_token
from studies.models import Origin
from tests import factories
from tests.studies.dicomweb.fronted import FrontClient, new_front

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["django", "front"])
def client(request):
    """Django alone, and behind the front as in the web process."""
    if request.param == "django":
        yield Client()
        return
    front = new_front(seconds=0.0)
    yield FrontClient(front)
    front.close()


def basic(username, secret):
    return "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()


def every_route(series):
    study = f"/studies/{series.study.study_instance_uid}"
    one = f"{study}/series/{series.series_instance_uid}"
    instance = f"{one}/instances/{series.instances.first().sop_instance_uid}"
    uri = (
        f"/wado?requestType=WADO&studyUID={series.study.study_instance_uid}&seriesUID={series.series_instance_uid}"
        f"&objectUID={series.instances.first().sop_instance_uid}"
    )
    levels = [study, one, instance]
    return [
        *levels,
        *[f"{level}/{what}" for level in levels for what in ("metadata", "rendered", "thumbnail")],
        f"{study}/series",
        f"{study}/instances",
        f"{one}/instances",
        f"{instance}/frames/1",
        f"{instance}/frames/1/rendered",
        f"{instance}/bulkdata/7FE00010",
        uri,
    ]


def test_every_way_in(series, alice, client):
    token = issue_token(user=alice)
    for header in (
        f"Token {token}",
        f"Bearer {token}",
        basic("alice", token),
        basic("alice", "correct horse battery"),
    ):
        assert client.get("/dicomweb/studies", HTTP_AUTHORIZATION=header).status_code == 200
    client.force_login(alice)
    assert client.get("/dicomweb/studies").status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Token nonsense", "Basic !!", basic("alice", "wrong"), basic("bob", "correct horse battery")]
)
def test_without_credentials(series, alice, client, header):
    guessing = header.startswith("Basic ") and "!" not in header
    for k, path in enumerate(["/studies", *every_route(series)]):
        answer = client.get("/dicomweb" + path, **({"HTTP_AUTHORIZATION": header} if header else {}))
        assert "P1" not in answer.content.decode()
        if guessing and k and answer.status_code == 429:  # whoever tries on is kept waiting
            continue
        assert answer.status_code == 401
        assert answer["WWW-Authenticate"].startswith("Basic")
    quiet = client.get("/dicomweb/studies", HTTP_SEC_FETCH_MODE="cors")
    assert quiet["WWW-Authenticate"].startswith("Token")  # no dialogue of the browser


def test_a_remembered_password_is_forgotten_when_it_changes(alice, client):
    header = basic("alice", "correct horse battery")
    assert client.get("/dicomweb/studies", HTTP_AUTHORIZATION=header).status_code == 200
    alice.set_password("another horse")
    alice.save()
    assert client.get("/dicomweb/studies", HTTP_AUTHORIZATION=header).status_code == 401


def test_outsiders_find_nothing_on_any_route(series, alice, root):
    outsider = factories.member(factories.ProjectFactory())
    for path in every_route(series):
        assert root(path, user=alice).status_code == 200, path
        assert root(path, user=outsider).status_code == 404, path
        assert root(path, user=outsider, base="/dicomweb/projects/lung").status_code == 404, path
    for path in ("/studies", "/series", "/instances"):
        assert root(path, user=outsider).json() == []
    assert root("/studies", user=outsider, base="/dicomweb/projects/lung").status_code == 404


def test_readers_do_not_see_other_readers_work(project, series, root):
    alice, bob = (factories.member(project, Role.READER) for _ in range(2))
    study = series.study.study_instance_uid
    report = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR", "PixelData": None, "Rows": None}
    theirs = factories.make_ct_series(
        project, 1, StudyInstanceUID=study, origin=Origin.ANNOTATION, created_by=alice, **report
    )
    path = f"/studies/{study}/series"
    assert len(root(path, user=alice).json()) == 2
    assert [s["0020000E"]["Value"][0] for s in root(path, user=bob).json()] == [series.series_instance_uid]
    seen = root("/studies", user=bob).json()[0]
    assert (seen["00080061"]["Value"], seen["00201206"]["Value"], seen["00201208"]["Value"]) == (["CT"], [1], [3])
    assert root("/studies?ModalitiesInStudy=SR", user=bob).json() == []
    assert len(root("/studies?ModalitiesInStudy=SR", user=alice).json()) == 1
    for hidden in every_route(theirs):
        if theirs.series_instance_uid in hidden:
            assert root(hidden, user=bob).status_code == 404, hidden
    assert len(root(f"/studies/{study}/metadata", user=bob).getvalue().split(b'"00080018"')) == 4


def test_storing_by_session_needs_the_csrf_token_and_by_token_does_not(alice, project):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    body = factories.part10_bytes(factories.ct_slice())
    assert client.post("/dicomweb/studies", body, "application/dicom").status_code == 403
    client.cookies["readroom_csrf"] = "a" * 32
    ok = client.post("/dicomweb/studies", body, "application/dicom", HTTP_X_CSRFTOKEN="a" * 32)
    assert ok.status_code == 200
    other = Client(enforce_csrf_checks=True)
    header = {"HTTP_AUTHORIZATION": f"Token {issue_token(user=alice)}"}
    body = factories.part10_bytes(factories.ct_slice())
    assert other.post("/dicomweb/studies", body, "application/dicom", **header).status_code == 200


@pytest.mark.parametrize("role", [Role.READER, Role.VIEWER])
def test_roles_that_may_not_import_may_not_store(project, client, role):
    client.force_login(factories.member(project, role))
    body = factories.part10_bytes(factories.ct_slice())
    for base in ("/dicomweb", "/dicomweb/projects/lung"):
        answer = client.post(f"{base}/studies", body, "application/dicom")
        assert answer.status_code == 403
        assert answer.json()["detail"]


def test_other_methods_and_unknown_addresses(alice, client, series):
    client.force_login(alice)
    answer = client.delete(f"/dicomweb/studies/{series.study.study_instance_uid}")
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST")
    assert client.get("/dicomweb/studies/abc").status_code == 404
    assert client.get("/dicomweb/projects/none/studies").status_code == 404
