"""Rules over REST, and the command."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.routing import rules
from inference.routing.models import RoutedStudy, RoutingRule
from portal.accounts.models import Role
from studies.dimse import nodes
from studies.models import Origin, Series
from tests.factories import ProjectFactory, make_ct_series, member
from tests.portal.rows import version_row

pytestmark = pytest.mark.django_db
RULES = "/api/routing-rules/"


@pytest.fixture(autouse=True)
def _settles_at_once(settings, tmp_path):
    settings.ROUTING_SETTLE_SECONDS = 0
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def version(project):
    return version_row(project, "nodules")


@pytest.fixture
def send(client, project):
    client.force_login(member(project, Role.ENGINEER))

    def sent(method: str, url: str, **body):
        return client.generic(method, url, json.dumps(body), content_type="application/json")

    return sent


def test_a_rule_from_making_to_deleting(send, client, project, version):
    node = nodes.create(project, None, name="PACS", ae_title="MAIN", host="127.0.0.1", port=104)
    made = send(
        "POST", RULES, project="chest", name="Lungs", version=version.pk, priority="low", node=node.pk,
        conditions={"modality": ["ct"]},
    )  # fmt: skip
    assert made.status_code == 201, made.content
    said = made.json()
    assert (said["enabled"], said["conditions"], said["priority"], said["node"]) == (
        False, {"modality": ["CT"]}, "low", node.pk,
    )  # fmt: skip
    url = f"{RULES}{said['id']}/"
    changed = send("PATCH", url, model=version.model_id, node=None).json()
    assert (changed["model"], changed["version"], changed["node"], changed["priority"]) == (
        version.model_id, None, None, "low",
    )  # fmt: skip
    assert send("POST", f"{url}enable/").json()["enabled"] is True
    assert send("POST", f"{url}disable/").json()["enabled"] is False
    other = rules.create(project, by=None, name="Other", version=version)
    assert send("POST", f"{RULES}{other.pk}/move/", up=True).json()["position"] == 0
    assert [one["name"] for one in client.get(RULES, {"project": "chest"}).json()["results"]] == ["Other", "Lungs"]
    assert send("DELETE", url).status_code == 204
    assert list(RoutingRule.objects.all()) == [other]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"conditions": {"colour": ["red"]}}, "colour"),
        ({"conditions": {"study_description": {"how": "regex", "text": "("}}}, "regular expression"),
        ({"version": 0}, "object does not exist"),
        ({"priority": "at once"}, "not a valid choice"),
        ({"version": None}, "either"),
    ],
)
def test_what_cannot_be_is_refused_in_words(send, project, version, body, word):
    answer = send("POST", RULES, **{"project": "chest", "name": "Lungs", "version": version.pk} | body)
    assert answer.status_code == 400
    assert word in answer.content.decode()


def test_what_another_project_has_does_not_exist(send, project, version):
    elsewhere = ProjectFactory(slug="other")
    foreign = version_row(elsewhere)
    node = nodes.create(elsewhere, None, name="PACS", ae_title="MAIN", host="127.0.0.1", port=104)
    assert send("POST", RULES, project="chest", name="A", version=foreign.pk).status_code == 400
    assert send("POST", RULES, project="chest", name="A", version=version.pk, node=node.pk).status_code == 400
    assert send("POST", RULES, project="other", name="A", version=foreign.pk).status_code == 404


def test_a_dry_run_tells_and_a_run_asks_for_the_number(send, client, project, version):
    chest = make_ct_series(project, 2)
    head = make_ct_series(project, 2, PatientID="P2", BodyPartExamined="HEAD")
    conditions = {"body_part_examined": ["CHEST"]}
    tried = send("POST", f"{RULES}dry-run/", project="chest", version=version.pk, conditions=conditions).json()
    assert (tried["studies"], tried["counts"]["match"], tried["counts"]["no_match"]) == (2, 1, 1)
    rule = rules.create(project, by=None, name="Lungs", version=version, conditions=conditions)
    url = f"{RULES}{rule.pk}/"
    told = client.get(f"{url}dry-run/", {"days": "all", "verdict": "no_match"}).json()
    (decision,) = told["decisions"]
    assert (decision["study"], decision["reason"]) == (head.study_id, "BodyPartExamined is “HEAD”")
    assert decision["series"] == [{"series": head.pk, "condition": "BodyPartExamined", "found": "HEAD"}]
    assert client.get(f"{url}dry-run/", {"days": "0"}).status_code == 400
    assert client.get(f"{url}dry-run/", {"verdict": "maybe"}).status_code == 400

    assert send("POST", f"{url}run/", days="all").status_code == 400
    refused = send("POST", f"{url}run/", days="all", confirm=2)
    assert (refused.status_code, Job.objects.count()) == (409, 0)
    assert "1 studies match now" in refused.json()["detail"]
    done = send("POST", f"{url}run/", days="all", confirm=1)
    assert (done.status_code, done.json()["run"]) == (202, 1)
    routed = client.get("/api/routed-studies/", {"rule": rule.pk}).json()["results"]
    assert [(row["study"], row["outcome"], row["job_state"]) for row in routed] == [(chest.study_id, "run", "queued")]


def test_resending_over_rest(send, client, project, version):
    series = make_ct_series(project, 2)
    node = nodes.create(project, None, name="PACS", ae_title="MAIN", host="127.0.0.1", port=104)
    mask = Series.objects.create(study=series.study, series_instance_uid="1.2.3", modality="SEG", origin=Origin.MODEL)
    result = Prediction.objects.create(version=version, study=series.study, image=series, segmentation=mask)
    row = RoutedStudy.objects.create(
        rule_name="Lungs", study=series.study, outcome="run", version=version, image=series, number_of_instances=2,
        prediction=result, told=True, node=node, push="failed", push_cause="It was down.",
    )  # fmt: skip
    found = client.get("/api/routed-studies/", {"prediction": result.pk, "push": "failed"}).json()["results"]
    assert [(one["id"], one["push_cause"]) for one in found] == [(row.pk, "It was down.")]
    assert send("POST", f"/api/routed-studies/{row.pk}/resend/").json()["push"] == "waiting"
    assert send("POST", f"/api/routed-studies/{row.pk}/resend/").status_code == 400


def test_the_command_lists_rules_and_tries_them_out(project, version):
    make_ct_series(project, 2)
    make_ct_series(project, 2, PatientID="P2", BodyPartExamined="HEAD")
    rules.create(project, by=None, name="Lungs", version=version, conditions={"body_part_examined": ["CHEST"]})

    def told(*words: str) -> str:
        out = StringIO()
        call_command("routing", *words, stdout=out)
        return out.getvalue()

    assert "chest 1. Lungs (off): BodyPartExamined CHEST" in told()
    assert "2 studies of 30 days: would run 1, does not match 1" in told("--dry-run")
    (rule,) = json.loads(told("--dry-run", "--json", "--days", "all", "--studies"))["rules"]
    assert rule["counts"]["match"] == 1
    assert [one["verdict"] for one in rule["decisions"]] == ["no_match", "match"]
    assert not Job.objects.exists()
    for words in (["--project", "nowhere"], ["--rule", "None"], ["--days", "soon"]):
        with pytest.raises(CommandError):
            told(*words)
