"""What the REST calls answer; who may use them is asked in tests/test_permissions.py."""

from __future__ import annotations

import pytest
from django.test import Client

from inference.evaluation import services as evaluation_services
from inference.jobs.models import Job
from inference.training.models import TrainingRun
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.class_factory import shape_cohort
from tests.inference.models_factory import CONFIG, ball_cohort, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media", "broker")]


@pytest.fixture
def world():
    project = ProjectFactory()
    client = Client()
    client.force_login(member(project, Role.ENGINEER, username="erin"))
    cohort, reference = ball_cohort(project, 4)
    return project, client, cohort, reference


def post(client: Client, url: str, body: dict):
    return client.post(url, body, content_type="application/json")


def test_a_training_run_is_started_and_answers_with_its_job(world):
    project, client, cohort, reference = world
    answer = post(client, "/api/training-runs/", {"project": project.slug, "cohort": cohort.pk, "config": CONFIG})
    assert answer.status_code == 201, answer.json()
    run = TrainingRun.objects.get(pk=answer.json()["id"])
    assert (run.reference, run.job.queue, run.job.state) == (reference, "train", "queued")
    assert run.created_by.username == "erin"
    assert answer.json()["config"]["training"]["weight_decay"] == 0.01  # defaults are written out
    toml = 'name = "balls"\n[training]\npatch = [8, 8, 8]\n'
    answer = post(client, "/api/training-runs/", {"project": project.slug, "cohort": cohort.pk, "toml": toml})
    assert answer.status_code == 201
    assert {row["id"] for row in client.get("/api/training-runs/").json()["results"]} == set(
        TrainingRun.objects.values_list("pk", flat=True)
    )


def test_a_wrong_configuration_answers_with_every_problem(world):
    project, client, cohort, _ = world
    body = {"project": project.slug, "cohort": cohort.pk, "config": {"name": "x y", "training": {"epochs": 0}}}
    answer = post(client, "/api/training-runs/", body)
    assert answer.status_code == 400
    problems = answer.json()["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["name", "training.epochs", "training.patch"]
    both = post(client, "/api/training-runs/", {**body, "toml": "name = 'x'"})
    assert both.status_code == 400
    assert not TrainingRun.objects.exists()


def test_a_version_is_run_on_a_cohort_or_on_studies(world):
    project, client, cohort, _ = world
    version = threshold_version(project)
    answer = post(client, "/api/predictions/run/", {"version": version.pk, "cohort": cohort.pk, "split": "test"})
    assert answer.status_code == 201, answer.json()
    job = Job.objects.get(pk=answer.json()["id"])
    assert job.parameters == {"version": version.pk, "cohort": cohort.pk, "split": "test"}
    study = cohort.cases.first().study_id
    assert job.priority == Job.Priority.NORMAL
    asked = {"version": version.pk, "studies": [study], "priority": "urgent"}
    answer = post(client, "/api/predictions/run/", asked)
    assert (answer.status_code, answer.json()["priority"], answer.json()["position"]) == (201, "urgent", 1)
    assert post(client, "/api/predictions/run/", asked | {"priority": "now"}).status_code == 400
    assert post(client, "/api/predictions/run/", {"version": version.pk}).status_code == 400


def test_an_evaluation_answers_with_summary_and_cases(world, run_job):
    project, client, cohort, _ = world
    version = threshold_version(project)
    answer = post(client, "/api/evaluations/", {"version": version.pk, "cohort": cohort.pk})
    assert answer.status_code == 201, answer.json()
    url = f"/api/evaluations/{answer.json()['id']}/"
    assert client.get(url).json()["finished_at"] is None
    run_job(Job.objects.get(pk=answer.json()["job"]))
    found = client.get(url).json()
    assert found["n"] == len(found["cases"]) == 1
    assert set(found["summary"]) == {"Ball", "Dim ball"}
    assert found["structures"]["Ball"]["mean"] == found["summary"]["Ball"]["dice"]["estimate"]


def test_refusals_are_in_words(world):
    project, client, cohort, _ = world
    other = threshold_version(project, labels=[{"number": 1, "name": "Liver"}, {"number": 2, "name": "X"}])
    answer = post(client, "/api/evaluations/", {"version": other.pk, "cohort": cohort.pk})
    assert answer.status_code == 400
    assert answer.json()["cause"].startswith("The model finds Liver, X")
    assert answer.json()["next_step"]


def test_studies_and_versions_of_another_tenant_are_not_found(world):
    project, client, cohort, _ = world
    elsewhere = ProjectFactory()
    foreign_cohort, _ = ball_cohort(elsewhere, 2, name="Foreign", freeze=False)
    foreign, own = threshold_version(elsewhere), threshold_version(project)
    study = foreign_cohort.cases.first().study_id
    for url, body in (
        ("/api/predictions/run/", {"version": foreign.pk, "cohort": cohort.pk}),
        ("/api/predictions/run/", {"version": own.pk, "cohort": foreign_cohort.pk}),
        ("/api/predictions/run/", {"version": own.pk, "studies": [study, cohort.cases.first().study_id]}),
        ("/api/evaluations/", {"version": foreign.pk, "cohort": cohort.pk}),
        ("/api/training-runs/", {"project": elsewhere.slug, "cohort": cohort.pk, "config": CONFIG}),
        ("/api/training-runs/", {"project": project.slug, "cohort": foreign_cohort.pk, "config": CONFIG}),
    ):
        assert post(client, url, body).status_code == 404, (url, body)
    assert client.get(f"/api/versions/{foreign.pk}/").status_code == 404
    assert [row["id"] for row in client.get("/api/versions/").json()["results"]] == [own.pk]
    assert not Job.objects.exists()


def test_promotion_is_signed_and_told(world):
    project, _, _, _ = world
    version = threshold_version(project)
    boss = Client()
    boss.force_login(member(project, Role.MANAGER, username="mona"))
    answer = post(
        boss, f"/api/versions/{version.pk}/promote/", {"to": "production", "reason": "best Dice on two sites"}
    )
    assert answer.json()["stage"] == "production"
    history = boss.get(f"/api/versions/{version.pk}/promotions/").json()
    assert [(row["from_stage"], row["to_stage"], row["by"]) for row in history] == [("candidate", "production", "mona")]
    again = post(boss, f"/api/versions/{version.pk}/promote/", {"to": "candidate", "reason": "oops"})
    assert again.status_code == 400
    assert "cannot become" in again.json()["cause"]


def test_lists_need_few_queries(world, run_job, django_assert_max_num_queries):
    project, client, cohort, _ = world
    version = threshold_version(project)
    for _ in range(3):
        evaluation_services.start(version, cohort, by=None)
    for url in ("/api/evaluations/", "/api/versions/", "/api/models/", "/api/training-runs/", "/api/predictions/"):
        with django_assert_max_num_queries(8):  # one of them writes the audit trail
            assert client.get(url).status_code == 200


def test_a_cross_validation_is_started_by_configuration_or_without_one(client):
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 8, folds=2, fractions={})
    client.force_login(member(project, Role.ENGINEER))
    body = {"project": project.slug, "cohort": cohort.pk}
    plain = post(client, "/api/cross-validations/", {**body, "name": "contest"})
    assert plain.status_code == 201, plain.json()
    made = plain.json()
    assert (made["state"], made["reference"], made["name"]) == ("queued", reference.pk, "contest")
    assert made["config"]["cross_validation"]["baselines"] == ["logistic_regression", "svm", "random_forest", "sparse"]
    given = post(client, "/api/cross-validations/", {**body, "config": SHAPES})
    assert given.json()["config"]["cross_validation"]["baselines"] == []
    both = post(client, "/api/cross-validations/", {**body, "config": SHAPES, "toml": "name = 'x'"})
    assert both.status_code == 400
    assert len(client.get("/api/cross-validations/").json()["results"]) == 2
    detail = client.get(f"/api/cross-validations/{made['id']}/").json()
    assert detail["report"]["cohort"] == cohort.name
    shares, _ = shape_cohort(ProjectFactory(), 4)
    foreign = post(client, "/api/cross-validations/", {**body, "cohort": shares.pk})
    assert foreign.status_code == 404


def test_a_segmentation_is_cross_validated_and_reported(client, run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 4, folds=2, fractions={"test": 0})
    client.force_login(member(project, Role.ENGINEER))
    body = {"project": project.slug, "cohort": cohort.pk}
    config = {**CONFIG, "training": {**CONFIG["training"], "epochs": 1}}
    started = post(client, "/api/cross-validations/", {**body, "config": config})
    assert started.status_code == 201, started.json()
    made = started.json()
    assert run_job(Job.objects.get(pk=made["job"])).state == "succeeded"
    report = client.get(f"/api/cross-validations/{made['id']}/").json()["report"]
    assert report["structures"] == ["Ball", "Dim ball"]
    dice = report["schemes"]["folds"]["structures"]["Ball"]["dice"]
    assert (dice["n"], dice["method"]) == (4, "BCa bootstrap over 4 patients, 10000 resamples")
    assert [part["judged"] for part in report["schemes"]["folds"]["rounds"]] == [2, 2]
    baselines = {**config, "cross_validation": {"baselines": ["svm"]}}
    refused = post(client, "/api/cross-validations/", {**body, "config": baselines})
    assert refused.status_code == 400
    assert "the classical methods tell classes apart" in str(refused.json())
    assert post(client, "/api/cross-validations/", body).status_code == 400  # which network, it cannot guess
