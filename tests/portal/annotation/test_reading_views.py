"""The calls of the reading page: what the client is told, and with which status."""

import hashlib

import pytest
from django.urls import reverse

from portal.annotation import campaigns, segmentations
from portal.annotation.models import Draft, Read
from tests.portal.annotation.conftest import answers_of, box, draw, submit, task_of


@pytest.fixture
def task(world, client):
    task = task_of(world.campaign(), world.alice)
    client.force_login(world.alice)
    return task


def post(client, name, task, **body):
    return client.post(reverse(name, args=[task.pk]), body, content_type="application/json")


def test_state_is_what_the_client_needs(client, task):
    state = client.get(reverse("reading_state", args=[task.pk])).json()
    assert state["campaign"]["name"] == "Nodules"
    assert [q["kind"] for q in state["questions"]] == ["yes_no", "scale"]
    assert state["segments"] == [
        {
            "number": 1,
            "name": "Nodule",
            "color": "#5acce6",
            "required": False,
            "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
            "type": ["27925004", "SCT", "Nodule"],  # SNOMED CT
        }
    ]
    assert state["draft"] is None
    assert state["ai"] is None
    assert state["dicomweb_root"] == f"/dicomweb/tasks/{task.pk}"
    assert state["study_uid"] == task.case.study.study_instance_uid
    assert state["image_series_uid"] == task.case.image.series_instance_uid
    assert (state["case_name"], state["total"], state["submitted"]) == ("C-0001", 3, 0)
    assert state["position"] == task.position
    assert state["next_url"] == f"/reading/next/{task.campaign_id}/?after={task.pk}"


def test_a_draft_is_read_back_from_database_and_disk(client, task):
    instance = draw(task, box(slice(10, 20)))
    saved = post(
        client, "reading_draft", task, base_version=0, answers=answers_of(task, "yes", 4),
        segmentation_sop_uid=instance.sop_instance_uid, active_seconds=42,
    )  # fmt: skip
    assert saved.status_code == 200
    assert saved.json()["version"] == 1
    draft = client.get(reverse("reading_draft", args=[task.pk])).json()["draft"]
    assert draft["answers"] == answers_of(task, "yes", 4)
    assert draft["segmentation"] == {
        "series_uid": instance.series.series_instance_uid,
        "sop_uid": instance.sop_instance_uid,
        "sha256": hashlib.sha256(segmentations.file_of(instance).read_bytes()).hexdigest(),
    }
    assert (draft["active_seconds"], draft["digest"], draft["intact"]) == (42, saved.json()["digest"], True)


def test_drafts_survive_a_reload(client, task):
    post(client, "reading_draft", task, base_version=0, answers=answers_of(task, "yes"), active_seconds=7)
    state = client.get(reverse("reading_state", args=[task.pk])).json()
    assert state["draft"]["answers"] == answers_of(task, "yes")
    assert state["active_seconds"] == 7
    assert state["state"] == "started"


def test_a_stale_save_gets_409_and_the_newest_draft(client, task):
    post(client, "reading_draft", task, base_version=0, answers=answers_of(task, "yes"), active_seconds=0)
    response = post(client, "reading_draft", task, base_version=0, answers=answers_of(task, "no"), active_seconds=0)
    assert response.status_code == 409
    assert response.json()["draft"]["version"] == 1
    assert response.json()["draft"]["answers"] == answers_of(task, "yes")
    assert Draft.objects.count() == 1


def test_submit_says_what_is_missing_then_goes_on(client, task):
    post(client, "reading_draft", task, base_version=0, answers=answers_of(task, None, 2), active_seconds=0)
    response = post(client, "reading_submit", task, base_version=1)
    assert response.status_code == 422
    assert list(response.json()["errors"]) == [str(task.campaign.questions.first().pk)]
    post(client, "reading_draft", task, base_version=1, answers=answers_of(task, "no", 2), active_seconds=0)
    first = post(client, "reading_submit", task, base_version=2)
    assert first.status_code == 200
    assert first.json()["read_version"] == 1
    assert post(client, "reading_submit", task, base_version=2).json() == first.json()
    assert Read.objects.count() == 1
    following = client.get(first.json()["next_url"])
    assert following.status_code == 302
    assert following.url != reverse("reading_task", args=[task.pk])


def test_skip_and_flag(client, task):
    assert post(client, "reading_flag", task, text="Wrong body part").json() == {"flag": "Wrong body part"}
    response = post(client, "reading_skip", task)
    assert response.status_code == 200
    task.refresh_from_db()
    assert (task.state, task.flag) == ("skipped", "Wrong body part")
    following = client.get(response.json()["next_url"])
    assert following.url != reverse("reading_task", args=[task.pk])


def test_next_leads_through_all_cases_and_then_to_the_list(client, world, task):
    seen = []
    for _ in range(3):
        address = client.get(reverse("reading_next", args=[task.campaign_id])).url
        pk = int(address.strip("/").split("/")[-1])
        seen.append(pk)
        submit(task.campaign.tasks.select_related("campaign", "case__image", "reader").get(pk=pk), "yes")
    assert sorted(seen) == sorted(task.campaign.tasks.filter(reader=world.alice).values_list("pk", flat=True))
    assert client.get(reverse("reading_next", args=[task.campaign_id])).url == reverse("my_reading")


@pytest.mark.parametrize("step", ["pause", "close"])
def test_paused_and_closed_are_409_in_words(client, world, task, step):
    getattr(campaigns, step)(task.campaign, by=world.manager)
    for response in (
        client.get(reverse("reading_state", args=[task.pk])),
        post(client, "reading_draft", task, base_version=0, answers={}, active_seconds=0),
        post(client, "reading_submit", task, base_version=1),
        post(client, "reading_skip", task),
    ):
        assert response.status_code == 409
        assert step[:5] in response.json()["cause"]
        assert response.json()["next_step"]
    page = client.get(reverse("reading_task", args=[task.pk]))
    assert page.status_code == 409
    assert step[:5] in page.content.decode()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("reading_draft", "{not json"),
        ("reading_draft", "[1]"),
        ("reading_draft", '{"base_version": -1}'),
        ("reading_draft", '{"base_version": "one"}'),
        ("reading_submit", "{}"),
    ],
)
def test_malformed_bodies_are_400(client, task, name, body):
    response = client.post(reverse(name, args=[task.pk]), body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["error"]
    assert not Draft.objects.exists()


def test_answers_of_a_wrong_shape_are_422(client, task):
    response = post(client, "reading_draft", task, base_version=0, answers=["yes"], active_seconds=0)
    assert response.status_code == 422


def test_a_reader_who_lost_the_role_is_refused(client, world, task):
    from portal.accounts.models import Role
    from portal.accounts.services import set_role

    set_role(project=world.project, user=world.manager, role=Role.MANAGER)
    world.project.memberships.filter(user=world.alice).update(role=Role.VIEWER)
    assert client.get(reverse("reading_state", args=[task.pk])).status_code == 403
    world.project.memberships.filter(user=world.alice).delete()
    assert client.get(reverse("reading_state", args=[task.pk])).status_code == 404


def test_the_page_says_what_was_withdrawn(client, world, task):
    campaigns.remove_reader(task.campaign, world.alice, by=world.manager)
    response = client.get(reverse("reading_task", args=[task.pk]))
    assert response.status_code == 409
    assert "no longer assigned" in response.content.decode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"base_version": 1e400}', "whole number"),
        ('{"base_version": 0, "active_seconds": 1e400}', "whole number"),
        ('{"base_version": 0, "segmentation_sop_uid": "1.2\\u0000"}', "DICOM UID"),
        ('{"base_version": 0, "segmentation_sop_uid": {"a": 1}}', "DICOM UID"),
    ],
)
def test_values_that_nothing_can_hold_are_refused_in_words(client, task, body, words):
    answer = client.post(reverse("reading_draft", args=[task.pk]), body, content_type="application/json")
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert not Draft.objects.exists()
