"""The pages of other systems; the remote is another project of the same portal over DICOMweb, or dcmtk."""

from __future__ import annotations

import pytest
from django.urls import reverse

from inference.jobs.models import Job
from portal.accounts import services as accounts
from portal.accounts.models import Role
from portal.pacs import transfers
from studies.dimse import nodes
from studies.dimse.errors import RemoteError
from studies.dimse.models import RemoteNode
from studies.models import Embargo, Instance, Origin, Study
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member
from tests.portal.rows import study_row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.DIMSE_TIMEOUT_SECONDS = 60.0


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax", name="Thorax AI")


@pytest.fixture
def there(transactional_db):
    return ProjectFactory(slug="there")


@pytest.fixture
def node(project, there, live_server) -> RemoteNode:
    token = accounts.issue_token(user=member(there, Role.ENGINEER))
    url = f"{live_server.url}/dicomweb/projects/there"
    return nodes.create(project, None, name="Main PACS", kind="dicomweb", url=url, token=token)


@pytest.fixture
def engineer(project, client):
    user = member(project, Role.ENGINEER)
    client.force_login(user)
    return user


def test_the_list_shows_own_nodes_and_costs_the_same_for_many(client, engineer, project, django_assert_num_queries):
    nodes.create(project, None, name="Ours", ae_title="A0", host="h", port=104)
    nodes.create(ProjectFactory(), None, name="Theirs", ae_title="T", host="h", port=104)
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client.get(reverse("pacs"))  # the trail keeps the first look of some minutes
    with CaptureQueriesContext(connection) as few:
        page = client.get(reverse("pacs"))
    assert [one.name for one in page.context["nodes"]] == ["Ours"]
    for number in range(1, 20):
        nodes.create(project, None, name=f"N{number}", ae_title=f"A{number}", host="h", port=104)
    with django_assert_num_queries(len(few)):
        assert len(client.get(reverse("pacs")).context["nodes"]) == 20


def test_a_search_shows_what_is_there_and_what_is_here(client, engineer, node, there, project):
    make_ct_series(there, 2, StudyInstanceUID="1.2.3.1", PatientID="S1", PatientName="Search^Sam", StudyDate="20240102")
    make_ct_series(there, 2, StudyInstanceUID="1.2.3.2", PatientID="S1", PatientName="Search^Sam", StudyDate="20240203")
    make_ct_series(project, 2, StudyInstanceUID="1.2.3.2", PatientID="S1")
    page = client.post(reverse("node_query", args=[node.pk]), {"patient_name": "search"})
    rows = {found.study_instance_uid: held for found, held in page.context["rows"]}
    assert rows["1.2.3.1"] is None
    assert rows["1.2.3.2"] == Study.objects.get(project=project)
    assert "2 Jan 2024" in page.content.decode()
    assert "SEARCH" not in page.request["QUERY_STRING"]


def test_a_search_for_everything_is_not_sent(client, engineer, node):
    page = client.post(reverse("node_query", args=[node.pk]), {})
    assert page.status_code == 422
    assert "at least one field" in page.content.decode()


def test_a_remote_that_fails_says_why(client, engineer, node):
    nodes.change(node, token="wrong")
    page = client.post(reverse("node_query", args=[node.pk]), {"patient_id": "X"}).content.decode()
    assert "The search failed" in page
    assert "it asks for another token" in page
    answer = client.post(reverse("node_echo", args=[node.pk]), HTTP_HX_REQUEST="true").content.decode()
    assert "No answer" in answer
    assert "another token" in answer


def test_echo(client, engineer, node):
    assert (
        "Answered after" in client.post(reverse("node_echo", args=[node.pk]), HTTP_HX_REQUEST="true").content.decode()
    )


def test_retrieving_queues_a_job_of_the_nodes_project_without_identity(client, engineer, node, broker):
    client.post(reverse("node_retrieve", args=[node.pk]), {"study": ["1.2.3", "1.2.4", "1.2.3"]})
    job = Job.objects.get()
    assert (job.project, job.queue, job.created_by) == (node.project, "io", engineer)
    assert job.title == "Retrieve 2 studies from Main PACS"
    assert job.parameters == {"node": node.pk, "studies": ["1.2.3", "1.2.4"]}
    response = client.post(reverse("node_retrieve", args=[node.pk]), {"study": ["not a UID"]}, follow=True)
    assert "digits and dots only" in response.content.decode()
    assert Job.objects.count() == 1


def ticks(told: list[tuple[float, str]]):
    return lambda fraction, text: told.append((fraction, text))


def test_one_bad_study_does_not_stop_the_others(node, there, project):
    for number in (1, 3):
        make_ct_series(there, 2, StudyInstanceUID=f"1.2.3.{number}", PatientID=f"P{number}")
    told: list[tuple[float, str]] = []
    moved = transfers.retrieve_all(node, ["1.2.3.1", "1.2.3.2", "1.2.3.3"], by=None, tick=ticks(told))
    assert [(one.name, one.objects, bool(one.cause)) for one in moved] == [
        ("1.2.3.1", 2, False), ("1.2.3.2", 0, True), ("1.2.3.3", 2, False),
    ]  # fmt: skip
    assert Study.objects.filter(project=project).count() == 2
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    # A second time nothing is fetched that is here whole.
    again = transfers.retrieve_all(node, ["1.2.3.1"], by=None, tick=ticks([]))
    assert [(one.objects, one.cause) for one in again] == [(0, "")]


def test_a_remote_that_is_gone_is_not_asked_for_every_study(node, monkeypatch):
    from studies.dimse import remote
    from tests.studies.dimse.conftest import free_port

    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.0)
    nodes.change(node, url=f"http://127.0.0.1:{free_port()}", token="x")
    told: list[tuple[float, str]] = []
    moved = transfers.retrieve_all(node, [f"1.2.{n}" for n in range(1, 6)], by=None, tick=ticks(told))
    assert len(moved) == 5
    assert all("cannot be reached" in one.cause for one in moved)
    assert [text for _, text in told] == ["study 1 of 5", "study 2 of 5"]


def test_sending_gives_what_the_sender_may_see_and_never_drafts(node, there, project):
    uid = {"StudyInstanceUID": "1.2.3.9", "PatientID": "S9"}
    image = make_ct_series(project, 2, **uid)
    make_ct_series(project, 1, origin=Origin.MODEL, **uid)
    make_ct_series(project, 1, origin=Origin.DRAFT, created_by=member(project, Role.READER), **uid)
    sender = member(project, Role.ENGINEER)
    study = image.study
    assert transfers.sendable(study, "all", sender).count() == 3
    assert transfers.sendable(study, "results", sender).count() == 1
    Embargo.objects.create(user=sender, study=study, reason="campaign:1")
    assert transfers.sendable(study, "all", sender).count() == 2
    (moved,) = transfers.send_all(node, [study], "images", by=sender, tick=ticks([]))
    assert (moved.objects, moved.cause) == (2, "")
    assert Instance.objects.filter(project=there).count() == 2
    (nothing,) = transfers.send_all(node, [study], "results", by=sender, tick=ticks([]))
    assert "nothing of this kind" in nothing.cause


def test_sending_from_the_worklist(client, engineer, node, project, broker):
    mine, foreign = study_row(project), study_row(ProjectFactory())
    page = client.get(reverse("pacs_send"), {"study": [mine.pk, foreign.pk]})
    assert page.context["studies"] == [mine]
    client.post(reverse("pacs_send"), {"study": [mine.pk, foreign.pk], "node": node.pk, "what": "results"})
    assert Job.objects.get().parameters == {"node": node.pk, "studies": [mine.pk], "what": "results"}


def test_a_study_is_never_sent_through_another_projects_node(engineer, node):
    with pytest.raises(RemoteError, match="another one"):
        transfers.start_sending(node, [study_row(ProjectFactory())], "all", by=engineer)


def test_an_administrator_writes_nodes_down_and_removes_them(client, project):
    client.force_login(UserFactory(is_superuser=True))
    about = {
        "name": "Scanner", "project": project.pk, "kind": "dimse", "active": "on", "ae_title": "CT1",
        "host": "10.0.0.5", "port": "104", "addresses": "10.0.0.5, 10.1.0.0/16", "services": ["store", "commit"],
    }  # fmt: skip
    bad = client.post(reverse("node_create"), {**about, "addresses": "everywhere"})
    assert bad.status_code == 422
    assert "neither an address nor a network" in bad.content.decode()
    client.post(reverse("node_create"), about)
    node = RemoteNode.objects.get()
    assert (node.addresses, node.services, node.called_ae_title) == (
        ["10.0.0.5", "10.1.0.0/16"], ["store", "commit"], "READROOM",
    )  # fmt: skip
    page = client.get(reverse("node_edit", args=[node.pk]))
    assert page.context["form"]["addresses"].value() == "10.0.0.5 10.1.0.0/16"
    client.post(reverse("node_edit", args=[node.pk]), {**about, "name": "CT 1", "services": []})
    node.refresh_from_db()
    assert (node.name, node.services) == ("CT 1", [])
    client.post(reverse("node_remove", args=[node.pk]))
    assert not RemoteNode.objects.exists()


def test_a_token_is_kept_and_never_shown(client, project):
    client.force_login(UserFactory(is_superuser=True))
    about = {
        "name": "Web",
        "project": project.pk,
        "kind": "dicomweb",
        "active": "on",
        "url": "https://pacs.example/web",
    }
    client.post(reverse("node_create"), {**about, "token": "very-secret-token"})
    node = RemoteNode.objects.get()
    assert node.token == "very-secret-token"
    for page in (reverse("node_edit", args=[node.pk]), reverse("pacs"), f"/api/nodes/{node.pk}/"):
        assert "very-secret" not in client.get(page).content.decode()
    client.post(reverse("node_edit", args=[node.pk]), {**about, "name": "Other"})
    node.refresh_from_db()
    assert (node.name, node.token) == ("Other", "very-secret-token")
    # The token must not follow to another address.
    client.post(reverse("node_edit", args=[node.pk]), {**about, "url": "https://evil.example/web"})
    node.refresh_from_db()
    assert node.token == ""
