"""Searching the audit trail: who finds what, by what, page after page, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from portal.accounts.audit import trail
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from portal.accounts.services import issue_token
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def world(db):
    """Two projects with a patient each; in each somebody looked at the patient, in one somebody was denied."""

    class World:
        mine, theirs = ProjectFactory(slug="mine"), ProjectFactory(slug="theirs")
        root = UserFactory(username="root", is_superuser=True)

    world = World()
    world.manager = member(world.mine, Role.MANAGER, username="manager")
    world.reader = member(world.mine, Role.READER, username="reader")
    world.stranger = member(world.theirs, Role.READER, username="stranger")
    world.patient = make_ct_series(world.mine, 1, PatientID="MRN-1").study.patient
    world.other = make_ct_series(world.theirs, 1, PatientID="MRN-2").study.patient
    trail.record("patient.view", world.patient, user=world.reader)
    trail.record("patient.view", world.other, user=world.stranger)
    trail.record("study.view", kind="studies.study", key=1, project=world.mine, user=world.stranger, outcome="denied")
    return world


def listed(client, **query) -> list[tuple]:
    answer = client.get(reverse("api_audit-list"), query)
    assert answer.status_code == 200, answer.content
    return [(row["action"], row["user"], row["project"]) for row in answer.json()["results"]]


def test_managers_find_their_projects_administrators_everything_others_nothing(client, world):
    client.force_login(world.manager)
    assert {project for _, _, project in listed(client)} == {"mine"}
    assert ("study.view", "stranger", "mine") in listed(client)
    assert listed(client, project="theirs") == []
    client.force_login(world.root)
    assert {"mine", "theirs", None} <= {project for _, _, project in listed(client)}
    client.force_login(world.reader)
    assert client.get(reverse("audit")).status_code == 403
    assert client.get(reverse("api_audit-list")).status_code == 403


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"user": "reader", "action": "patient"}, [("patient.view", "reader", "mine")]),
        ({"user": "nobody"}, []),
        ({"action": "patient.view", "project": "theirs"}, [("patient.view", "stranger", "theirs")]),
        ({"outcome": "denied"}, [("study.view", "stranger", "mine")]),
        ({"action": "patient", "until": "2001-01-01"}, []),
        ({"action": "patient", "since": "2001-01-01", "user": "stranger"}, [("patient.view", "stranger", "theirs")]),
    ],
)
def test_rows_are_found_by_user_action_project_outcome_and_day(client, world, query, expected):
    client.force_login(world.root)
    assert listed(client, **query) == expected


def test_rows_are_found_by_patient_without_the_identifier_in_an_address(client, world):
    client.force_login(world.manager)
    answer = client.post(reverse("audit"), {"patient_id": "MRN-1", "action": "patient"})
    assert answer.status_code == 302
    assert "MRN" not in answer["Location"]
    page = client.get(answer["Location"]).content.decode()
    assert page.count('<td class="nowrap" data-label="Time">') == 1
    assert "reader" in page
    elsewhere = client.post(reverse("audit"), {"patient_id": "MRN-2"}, follow=True).content.decode()
    assert "No patient has this PatientID" in elsewhere
    assert "MRN-2" not in elsewhere


@pytest.mark.parametrize(
    "query", ["since=yesterday", "patient=x", "outcome=maybe", "since=2026-02-01&until=2026-01-01"]
)
def test_criteria_that_mean_nothing_are_said_in_words(client, world, query):
    client.force_login(world.root)
    page = client.get(f"{reverse('audit')}?{query}")
    assert page.status_code == 422
    assert "This search cannot be made" in page.content.decode()
    assert client.get(f"{reverse('api_audit-list')}?{query}").status_code == 400
    assert client.get(f"{reverse('audit_export')}?{query}").status_code == 400


def test_pages_by_key_show_every_row_once_also_of_one_moment(client, world):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    AuditEvent.objects.bulk_create(
        AuditEvent(action="job.view", object_id=str(n), time=moment + timedelta(seconds=n // 300)) for n in range(500)
    )
    client.force_login(world.root)
    seen, query = [], {"action": "job.view"}
    while True:
        answer = client.get(reverse("api_audit-list"), query).json()
        seen += [int(row["object_id"]) for row in answer["results"]]
        # Rows that come meanwhile change nothing of the pages that follow.
        trail.record("job.view", kind="jobs.job", key=1000)
        if answer["next"] is None:
            break
        query["before"] = answer["next"]
    assert seen == list(range(499, -1, -1))


def test_the_page_asks_as_many_questions_for_fifty_rows_as_for_one(client, world):
    client.force_login(world.root)

    def asked() -> int:
        client.get(reverse("audit"), {"action": "cohort"})
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(reverse("audit"), {"action": "cohort"}).status_code == 200
        return len(queries)

    trail.record("cohort.view", kind="cohorts.cohort", key=1, project=world.mine, user=world.manager)
    one = asked()
    for k in range(60):
        who = UserFactory()
        trail.record("cohort.view", kind="cohorts.cohort", key=k, project=ProjectFactory(), user=who)
    assert asked() == one


def test_an_export_holds_what_fits_and_is_in_the_trail_itself(client, world):
    client.force_login(world.manager)
    answer = client.get(reverse("audit_export"), {"action": "patient"})
    table = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))
    assert [(row["user"], row["action"], row["project"]) for row in table] == [("reader", "patient.view", "mine")]
    assert table[0]["patient"] == str(world.patient.pk)
    assert AuditEvent.objects.get(action="audit.export").user == world.manager


def test_a_token_of_one_project_sees_that_project_only(client, world):
    secret = issue_token(user=world.root, project=world.mine)
    answer = client.get(reverse("api_audit-list"), HTTP_AUTHORIZATION=f"Token {secret}")
    assert {row["project"] for row in answer.json()["results"]} == {"mine"}


def test_what_a_row_holds_is_shown_as_text(client, world):
    client.force_login(world.root)
    trail.record("study.view", kind="studies.study", key="<script>", project=world.mine)
    page = client.get(reverse("audit")).content.decode()
    assert "<script>&" not in page
    assert re.search(r"study &lt;script&gt;", page)
