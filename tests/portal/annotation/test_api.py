"""Campaigns over REST."""

import pytest

from inference.jobs.models import Job
from portal.annotation.models import Campaign
from tests.factories import ProjectFactory, member
from tests.portal.annotation.conftest import submit, task_of


def body(world, **changes):
    return {
        "project": world.project.slug,
        "cohort": world.cohort.pk,
        "name": "By REST",
        "readers": ["alice", "bob"],
        "overlap": 2,
        "questions": [{"text": "Nodule?", "kind": "yes_no", "choices": [], "required": True}],
        "segments": [{"number": 1, "name": "Nodule", "required": False}],
    } | changes


def post(client, path, data=None):
    return client.post(f"/api/campaigns/{path}", data or {}, content_type="application/json")


def test_create_start_and_watch(client, world):
    client.force_login(world.manager)
    made = post(client, "", body(world))
    assert made.status_code == 201, made.content
    pk = made.json()["id"]
    assert (made.json()["state"], made.json()["questions"][0]["position"]) == ("draft", 1)
    assert post(client, f"{pk}/start/").json()["state"] == "reading"
    submit(task_of(Campaign.objects.get(), world.alice), "yes")
    progress = client.get(f"/api/campaigns/{pk}/progress/").json()
    assert (progress["submitted"], progress["total"]) == (1, 6)
    assert {one["reader"]: one["submitted"] for one in progress["readers"]} == {"alice": 1, "bob": 0}
    submit(task_of(Campaign.objects.get(), world.bob), "no")
    (question, _segment) = client.get(f"/api/campaigns/{pk}/agreement/").json()["items"]
    # One case, one yes and one no: P = 0, pe = 1/2, κ = −1, on one case only
    assert question["overall"]["estimate"] == pytest.approx(-1)
    assert (question["overall"]["n"], question["overall"]["few_cases"]) == (1, True)
    plan = client.get(f"/api/campaigns/{pk}/consensus/").json()["cases"]
    assert {one["case"]: one["left_out"] for one in plan}["C-0001"] == "a tie on “Nodule?”"
    assert len(client.get(f"/api/campaigns/{pk}/export/").json()["reads"]) == 2
    for step in ("pause", "resume", "close"):
        assert post(client, f"{pk}/{step}/").status_code == 200
    refused = post(client, f"{pk}/pause/")
    assert refused.status_code == 409
    assert "closed" in str(refused.json())


def test_publishing_is_a_job(client, world):
    campaign = world.campaign()
    for reader in (world.alice, world.bob):
        submit(task_of(campaign, reader), "yes")
    client.force_login(world.manager)
    answer = post(client, f"{campaign.pk}/consensus/", {"name": "Agreed"})
    assert answer.status_code == 202
    job = Job.objects.get(pk=answer.json()["job"])
    assert job.parameters == {
        "campaign": campaign.pk,
        "name": "Agreed",
        "method": "majority",
        "minimum_reads": None,
    }
    assert post(client, f"{campaign.pk}/consensus/", {"name": "Agreed", "method": "guess"}).status_code == 400


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"overlap": 3}, "overlap"),
        ({"readers": ["alice", "nobody"]}, "readers"),
        ({"readers": ["alice", "outsider"]}, "readers"),
        ({"readers": ["alice", "viewer"]}, "readers"),
        ({"questions": [], "segments": []}, "questions"),
        ({"questions": [{"text": "A?", "kind": "choice", "choices": ["x"]}]}, "questions-1"),
        ({"cohort": 999999}, "cohort"),
    ],
)
def test_errors_name_the_field(client, world, changes, field):
    client.force_login(world.manager)
    response = post(client, "", body(world, **changes))
    assert response.status_code == 400
    assert field in response.json()
    assert not Campaign.objects.exists()


def test_only_managers_make_and_steer(client, world):
    campaign = world.campaign()
    for who, create, steer in (
        ("alice", 403, 403),
        ("carol", 403, 404),
        ("engineer", 403, 403),
        ("viewer", 403, 403),
        ("outsider", 400, 404),
    ):
        client.force_login(getattr(world, who))
        assert post(client, "", body(world)).status_code == create, who
        assert post(client, f"{campaign.pk}/close/").status_code == steer, who
        assert post(client, f"{campaign.pk}/consensus/", {"name": "X"}).status_code == steer, who
    client.logout()
    assert client.get("/api/campaigns/").status_code == 401


def test_lists_are_exact_and_narrow(client, world):
    campaign = world.campaign()
    other = ProjectFactory()
    stranger = member(other)
    client.force_login(world.manager)
    assert [one["id"] for one in client.get("/api/campaigns/").json()["results"]] == [campaign.pk]
    assert client.get("/api/campaigns/?state=draft").json()["results"] == []
    client.force_login(stranger)
    assert client.get("/api/campaigns/").json()["results"] == []
    assert client.get(f"/api/campaigns/{campaign.pk}/").status_code == 404


def test_the_list_asks_the_database_the_same_however_long(client, world, django_assert_max_num_queries):
    client.force_login(world.manager)
    world.campaign(name="One")
    client.get("/api/campaigns/")
    with django_assert_max_num_queries(50) as few:
        client.get("/api/campaigns/")
    for k in range(4):
        world.campaign(name=f"More {k}")
    with django_assert_max_num_queries(len(few)):
        client.get("/api/campaigns/")


def test_a_reader_gets_the_own_progress_only(client, world):
    campaign = world.campaign()
    submit(task_of(campaign, world.bob), "yes")
    client.force_login(world.alice)
    progress = client.get(f"/api/campaigns/{campaign.pk}/progress/").json()
    assert [one["reader"] for one in progress["readers"]] == ["alice"]
    assert progress["submitted"] == 0
