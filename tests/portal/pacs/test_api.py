"""Nodes over REST; the remote is another project of the same portal over DICOMweb."""

from __future__ import annotations

import pytest

from inference.jobs.models import Job
from portal.accounts.models import Role
from studies.dimse import nodes
from studies.dimse.models import RemoteNode
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member
from tests.portal.pacs.test_pages import _own_media, engineer, node, project, there  # noqa: F401
from tests.portal.rows import study_row

pytestmark = pytest.mark.django_db(transaction=True)
JSON = {"content_type": "application/json"}


def test_a_program_searches_retrieves_and_sends(client, engineer, node, there, project, broker):  # noqa: F811
    make_ct_series(there, 2, StudyInstanceUID="1.2.3.1", PatientID="S1", PatientName="Search^Sam")
    root = f"/api/nodes/{node.pk}"
    assert client.post(f"{root}/echo/").json()["milliseconds"] >= 0
    answer = client.post(f"{root}/find/", {"patient_id": "S1"}, **JSON).json()
    assert (answer["complete"], [one["study_instance_uid"] for one in answer["studies"]]) == (True, ["1.2.3.1"])
    job = client.post(f"{root}/retrieve/", {"studies": ["1.2.3.1"]}, **JSON)
    assert job.status_code == 202
    assert Job.objects.get(pk=job.json()["id"]).parameters == {"node": node.pk, "studies": ["1.2.3.1"]}
    mine, foreign = study_row(project), study_row(ProjectFactory())
    sent = client.post(f"{root}/send/", {"studies": [mine.pk], "what": "results"}, **JSON)
    assert sent.status_code == 202
    assert client.post(f"{root}/send/", {"studies": [mine.pk, foreign.pk]}, **JSON).status_code == 400
    nodes.change(node, token="wrong")
    failed = client.post(f"{root}/echo/")
    assert failed.status_code == 424
    assert "another token" in failed.json()["detail"]


def test_lists_exactly_the_nodes_of_projects_into_which_one_may_import(client, project):  # noqa: F811
    ours = nodes.create(project, None, name="Ours", ae_title="A", host="h", port=104)
    nodes.create(ProjectFactory(), None, name="Theirs", ae_title="B", host="h", port=104)
    client.force_login(member(project, Role.ENGINEER))
    assert [one["id"] for one in client.get("/api/nodes/").json()["results"]] == [ours.pk]
    client.force_login(member(project, Role.VIEWER))
    assert client.get("/api/nodes/").json()["results"] == []


def test_administrators_change_nodes(client, project):  # noqa: F811
    client.force_login(UserFactory(is_superuser=True))
    about = {"project": "thorax", "name": "CT", "ae_title": "CT1", "host": "10.0.0.5", "port": 104, "token": ""}
    bad = client.post("/api/nodes/", {**about, "addresses": ["everywhere"]}, **JSON)
    assert bad.status_code == 400
    assert "neither an address nor a network" in str(bad.json())
    made = client.post("/api/nodes/", {**about, "addresses": ["10.0.0.5"], "services": ["store"]}, **JSON)
    assert made.status_code == 201, made.json()
    assert "token" not in made.json()
    address = f"/api/nodes/{made.json()['id']}/"
    assert client.patch(address, {"port": 11112}, **JSON).json()["port"] == 11112
    ProjectFactory(slug="other")
    assert client.patch(address, {"project": "other"}, **JSON).status_code == 400
    assert client.delete(address).status_code == 204
    assert not RemoteNode.objects.exists()
