"""Jobs over REST: who may do what, and what comes back."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from inference.jobs import services
from inference.jobs.failures import Failure
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from tests.factories import ProjectFactory, UserFactory, member
from tests.inference.jobs import sample_tasks
from tests.jobs import claimed

pytestmark = pytest.mark.django_db


@pytest.fixture
def clients(project):
    """One client for each role in the project, an outsider, and nobody."""
    users = {str(role): member(project, role) for role in Role}
    users["outsider"] = member(ProjectFactory(), Role.MANAGER)
    users["superuser"] = UserFactory(is_superuser=True)
    clients = {name: APIClient() for name in [*users, "nobody"]}
    for name, user in users.items():
        clients[name].force_authenticate(user)
    return clients


@pytest.fixture
def job(project):
    return services.submit(sample_tasks.mark, project=project, title="Mark", parameters={"n": 1}, by=None)


SEES = {"manager": 200, "engineer": 200, "reader": 200, "viewer": 200, "superuser": 200, "outsider": 404, "nobody": 401}
RUNS = SEES | {"reader": 403, "viewer": 403}


@pytest.mark.parametrize("who", SEES)
@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("get", "", SEES),
        ("get", "metrics/", SEES),
        ("get", "log/", RUNS),
        ("post", "cancel/", RUNS),
        ("post", "retry/", RUNS | {name: 409 for name, code in RUNS.items() if code == 200}),
        ("post", "priority/", RUNS | {name: 400 for name, code in RUNS.items() if code == 200}),
    ],
)
def test_permissions(clients, job, who, method, path, expected):
    assert getattr(clients[who], method)(f"/api/jobs/{job.pk}/{path}").status_code == expected[who]


def test_list_shows_exactly_the_own_projects_jobs(clients, job):
    assert [row["id"] for row in clients["viewer"].get("/api/jobs/").data["results"]] == [job.pk]
    assert clients["outsider"].get("/api/jobs/").data["results"] == []
    assert clients["nobody"].get("/api/jobs/").status_code == 401


def test_list_is_narrowed(clients, job):
    client = clients["engineer"]
    assert client.get("/api/jobs/?state=queued&project=brain&queue=train").data["count"] == 1
    assert client.get("/api/jobs/?state=running").data["count"] == 0
    answer = client.get("/api/jobs/?state=lost")
    assert answer.status_code == 400
    assert "queued" in str(answer.data["state"])


def test_detail_cancel_and_retry(clients, job):
    client = clients["engineer"]
    row = client.get(f"/api/jobs/{job.pk}/").data
    assert (row["project"], row["state"], row["position"], row["parameters"]) == ("brain", "queued", 1, {"n": 1})
    assert client.post(f"/api/jobs/{job.pk}/cancel/").data["state"] == "cancelled"
    again = client.post(f"/api/jobs/{job.pk}/cancel/")
    assert again.status_code == 409
    assert "ended already" in again.data["detail"]
    assert client.post(f"/api/jobs/{job.pk}/retry/").data["state"] == "queued"


def test_failed_job_says_cause_and_next_step_and_streams_its_log(clients, job):
    running = claimed(job)
    services.write_log(running.pk, running.claim, "first line")
    services.write_metric(running.pk, running.claim, "train_loss", 1, 0.5)
    services.write_metric(running.pk, running.claim, "train_loss", 2, float("nan"))
    services.fail(running.pk, running.claim, Failure("JobError", "No foreground.", "Choose another."))
    client = clients["engineer"]
    row = client.get(f"/api/jobs/{job.pk}/").data
    assert (row["state"], row["cause"], row["next_step"]) == ("failed", "No foreground.", "Choose another.")
    log = client.get(f"/api/jobs/{job.pk}/log/").data
    assert [line["text"] for line in log] == ["Attempt 1 started by w1", "first line", "Failed: No foreground."]
    rest = client.get(f"/api/jobs/{job.pk}/log/?after={log[1]['id']}").data
    assert [line["text"] for line in rest] == ["Failed: No foreground."]
    assert client.get(f"/api/jobs/{job.pk}/log/?after=x").status_code == 400
    metrics = client.get(f"/api/jobs/{job.pk}/metrics/").json()
    assert [(point["step"], point["value"]) for point in metrics] == [(1, 0.5), (2, None)]


def test_list_costs_the_same_for_many_jobs(clients, project, job, django_assert_max_num_queries):
    running = claimed(job)
    services.succeed(running.pk, running.claim, {})
    for number in range(20):
        other = services.submit(sample_tasks.add, project=project, title=str(number), parameters={}, by=None)
        held = claimed(other)
        services.succeed(held.pk, held.claim, {})
    with django_assert_max_num_queries(6):
        assert clients["engineer"].get("/api/jobs/").data["count"] == 21


def test_priority_of_a_queued_job_is_changed_and_recorded(clients, job, project):
    later = services.submit(sample_tasks.mark, project=project, title="Later", parameters={}, by=None)
    client = clients["manager"]
    answer = client.post(f"/api/jobs/{later.pk}/priority/", {"priority": "urgent"}, format="json")
    assert (answer.status_code, answer.data["priority"], answer.data["position"]) == (200, "urgent", 1)
    assert client.get(f"/api/jobs/{job.pk}/").data["position"] == 2
    [event] = AuditEvent.objects.filter(action="job.prioritise")
    assert (event.detail["before"], event.detail["after"]) == ("normal", "urgent")
    assert client.post(f"/api/jobs/{later.pk}/priority/", {"priority": "now"}, format="json").status_code == 400
    claimed(later)
    answer = client.post(f"/api/jobs/{later.pk}/priority/", {"priority": "low"}, format="json")
    assert (answer.status_code, answer.data["detail"][:24]) == (409, "Only a queued job has a ")


def test_list_of_many_queued_jobs_asks_for_places_once(clients, job, project, django_assert_max_num_queries):
    for number in range(15):
        services.submit(sample_tasks.mark, project=project, title=f"{number}", parameters={}, by=None)
    clients["engineer"].get("/api/jobs/")
    with django_assert_max_num_queries(8):
        rows = clients["engineer"].get("/api/jobs/").data["results"]
    assert [row["position"] for row in rows] == list(range(16, 0, -1))
