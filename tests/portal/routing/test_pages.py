"""The pages of routing rules: what they show and change, and that more rows cost no more queries."""

from __future__ import annotations

import pytest
from django.urls import reverse

from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.registry.models import Stage
from inference.routing import rules, services
from inference.routing.models import RoutedStudy, RoutingRule
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from studies.dimse import nodes
from studies.models import Origin, Series
from tests.factories import ProjectFactory, make_ct_series, member
from tests.portal.rows import version_row

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _settles_at_once(settings, tmp_path):
    settings.ROUTING_SETTLE_SECONDS = 0
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def engineer(client, project):
    user = member(project, Role.ENGINEER)
    client.force_login(user)
    return user


@pytest.fixture
def version(project):
    version = version_row(project, "nodules")
    version.stage = Stage.PRODUCTION
    version.save()
    return version


@pytest.fixture
def pacs(project):
    return nodes.create(project, None, name="Main PACS", ae_title="MAIN", host="127.0.0.1", port=104)


def form(version, **values) -> dict:
    return {"project": version.model.project.slug, "name": "Lungs", "runs": f"version:{version.pk}"} | values


def test_a_rule_is_written_down_off_and_reads_back_in_its_form(client, engineer, project, version, pacs):
    said = form(
        version, runs=f"production:{version.model_id}", priority="urgent", node=pacs.pk, modality="ct mr",
        body_part_examined="CHEST, Lower extremity", minimum_instances=20, sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        import_source=["dimse", "stow"], sending_ae_title="CT ROOM 2", series_description_how="wildcard",
        series_description="*lung*",
    )  # fmt: skip
    response = client.post(reverse("rule_create"), said)
    rule = RoutingRule.objects.get()
    assert response.url == reverse("rule", args=[rule.pk])
    assert (rule.enabled, rule.model, rule.version, rule.priority) == (False, version.model, None, Job.Priority.URGENT)
    assert (rule.push, rule.node, rule.created_by) == (True, pacs, engineer)
    stored = {
        "modality": ["CT", "MR"],
        "body_part_examined": ["CHEST", "LOWER EXTREMITY"],
        "sop_class_uid": ["1.2.840.10008.5.1.4.1.1.2"],
        "import_source": ["dimse", "stow"],
        "sending_ae_title": ["CT ROOM 2"],
        "series_description": {"how": "wildcard", "text": "*lung*"},
        "minimum_instances": 20,
    }
    assert rule.conditions == stored
    page = client.get(reverse("rule_edit", args=[rule.pk])).context["form"]
    again = {name: page[name].value() for name in page.fields if page[name].value() is not None}
    client.post(reverse("rule_edit", args=[rule.pk]), {**again, "name": "Other"})
    rule.refresh_from_db()
    assert (rule.name, rule.conditions, rule.model, rule.node) == ("Other", stored, version.model, pacs)


def test_a_bad_expression_comes_back_with_what_to_do(client, engineer, project, version):
    said = form(version, study_description_how="regex", study_description="(lung")
    response = client.post(reverse("rule_create"), said)
    assert response.status_code == 422
    assert "The regular expression for StudyDescription cannot be used" in response.content.decode()
    assert not RoutingRule.objects.exists()


def test_models_and_nodes_of_another_project_cannot_be_named(client, engineer, project, version):
    elsewhere = ProjectFactory(slug="other")
    foreign = version_row(elsewhere)
    node = nodes.create(elsewhere, None, name="Theirs", ae_title="THEIRS", host="127.0.0.1", port=104)
    for said in (form(version, runs=f"version:{foreign.pk}"), form(version, node=node.pk)):
        assert client.post(reverse("rule_create"), said).status_code == 422
    assert client.post(reverse("rule_create"), form(foreign)).status_code == 404
    assert not RoutingRule.objects.exists()


def test_the_numbers_beside_the_form_follow_it(client, engineer, project, version):
    make_ct_series(project, 2)
    make_ct_series(project, 2, PatientID="P2", BodyPartExamined="HEAD")
    url = reverse("rule_preview")
    text = client.post(url, form(version, name="", modality="CT")).content.decode()
    assert '<b class="num">2</b> of <span class="num">2</span> studies of the last 30 days would run' in text
    text = client.post(url, form(version, body_part_examined="head")).content.decode()
    assert '<b class="num">1</b> of' in text
    assert "Choose what to run" in client.post(url, form(version, runs="")).content.decode()
    said = form(version, study_description_how="regex", study_description="(")
    assert "cannot be used" in client.post(url, said).content.decode()
    assert not RoutingRule.objects.exists()
    assert not Job.objects.exists()


def test_trying_out_shows_every_study_with_the_reason_and_running_is_a_choice(client, engineer, project, version):
    series = make_ct_series(project, 2, PatientName="Curie^Marie")
    make_ct_series(project, 2, PatientID="P2", BodyPartExamined="HEAD")
    rule = rules.create(project, by=None, name="Lungs", version=version, conditions={"body_part_examined": ["CHEST"]})
    url = reverse("rule_try", args=[rule.pk])
    page = client.get(url)
    assert [(row.verdict, row.reason) for row, _ in page.context["rows"]] == [
        ("no_match", "BodyPartExamined is “HEAD”"),
        ("match", ""),
    ]
    assert page.context["matches"] == 1
    only = client.get(url, {"verdict": "match", "days": "all"})
    assert [row.study for row, _ in only.context["rows"]] == [series.study]
    assert client.get(url, {"days": "x", "page": "9"}).status_code == 200
    assert not Job.objects.exists()

    response = client.post(reverse("rule_run", args=[rule.pk]), {"days": "30"}, follow=True)
    assert "Lungs runs on 1 study in 1 job." in response.content.decode()
    row = RoutedStudy.objects.get()
    assert "Curie" not in f"{row.job.title} {row.job.parameters} {row.reason}"
    assert (row.study, row.by, row.outcome) == (series.study, engineer, "run")
    assert client.get(url).context["matches"] == 0
    assert AuditEvent.objects.filter(action="rule.run", user_id=engineer.pk).exists()


def test_switching_moving_and_deleting(client, engineer, project, version):
    first = rules.create(project, by=None, name="First", version=version)
    second = rules.create(project, by=None, name="Second", version=version)
    client.post(reverse("rule_switch", args=[first.pk]), {"on": "1"})
    first.refresh_from_db()
    assert (first.enabled, first.enabled_at is not None) == (True, True)
    client.post(reverse("rule_switch", args=[first.pk]))
    first.refresh_from_db()
    assert not first.enabled
    client.post(reverse("rule_move", args=[second.pk]), {"to": "up"})
    shown = client.get(reverse("rules")).context["rules"]
    assert [(rule.name, rule.first, rule.last) for rule in shown] == [("Second", True, False), ("First", False, True)]
    client.post(reverse("rule_delete", args=[second.pk]))
    assert list(RoutingRule.objects.all()) == [first]


def test_the_log_outlives_the_rule_and_shows_what_waits_in_the_quarantine(client, engineer, project, version):
    rule = rules.switch(rules.create(project, by=None, name="Lungs", version=version), True, by=None)
    series = make_ct_series(project, 2)
    services.route_settled()
    page = client.get(reverse("rule", args=[rule.pk]))
    assert [row.study for row in page.context["log"]] == [series.study]
    assert "Queued" in page.content.decode()
    client.post(reverse("rule_delete", args=[rule.pk]))
    row = RoutedStudy.objects.get()
    assert (row.rule, row.rule_name) == (None, "Lungs")


def test_lists_ask_the_database_no_more_with_more_rows(
    client, engineer, project, version, django_assert_num_queries, django_assert_max_num_queries
):
    rule = rules.create(project, by=None, name="A", version=version, conditions={"modality": ["CT"]})
    urls = [
        reverse("rules"),
        reverse("rule", args=[rule.pk]),
        reverse("rule_try", args=[rule.pk]),
        "/api/routing-rules/",
        "/api/routed-studies/",
    ]

    def add(number: int) -> None:
        rules.create(project, by=None, name=f"R{number}", model=version.model)
        series = make_ct_series(project, 1, PatientID=f"P{number}")
        RoutedStudy.objects.create(
            rule=rule, rule_name="A", study=series.study, outcome="skipped", reason="Because.", told=True
        )

    add(1)
    counts = {}
    for url in urls:
        client.get(url)  # writes its row of the audit trail
        with django_assert_max_num_queries(40) as made:
            client.get(url)
        counts[url] = len(made)
    for number in range(2, 6):
        add(number)
    for url, count in counts.items():
        with django_assert_num_queries(count):
            client.get(url)


def test_members_look_and_others_see_nothing(client, project, version):
    rule = rules.create(project, by=None, name="Lungs", version=version)
    client.force_login(member(project, Role.VIEWER))
    assert "Lungs" in client.get(reverse("rules")).content.decode()
    page = client.get(reverse("rule", args=[rule.pk])).content.decode()
    assert "Switch on" not in page
    assert "Delete rule" not in page
    client.force_login(member(ProjectFactory(slug="other"), Role.MANAGER))
    assert "Lungs" not in client.get(reverse("rules")).content.decode()
    assert client.get(reverse("rule", args=[rule.pk])).status_code == 404


def test_a_study_says_which_rule_ran_and_whether_its_result_was_sent(client, engineer, project, version, pacs):
    series = make_ct_series(project, 2)
    rule = rules.create(project, by=None, name="Lungs", version=version, push=True, node=pacs)
    services.run_now(rule, [series.study_id], by=engineer)
    row = RoutedStudy.objects.get()
    mask = Series.objects.create(study=series.study, series_instance_uid="1.2.3", modality="SEG", origin=Origin.MODEL)
    result = Prediction.objects.create(version=version, study=series.study, image=series, segmentation=mask)
    RoutedStudy.objects.update(prediction=result, told=True, push="failed", push_cause="The remote did not answer.")
    page = client.get(reverse("study", args=[series.study_id])).content.decode()
    assert reverse("rule", args=[rule.pk]) in page
    assert "The remote did not answer." in page
    response = client.post(reverse("routed_resend", args=[row.pk]), {"next": "study"})
    assert response.url == reverse("study", args=[series.study_id])
    row.refresh_from_db()
    assert (row.push, row.push_cause) == ("waiting", "")
    assert reverse("rule", args=[rule.pk]) in client.get(reverse("job", args=[row.job_id])).content.decode()
