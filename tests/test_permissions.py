"""docs/permissions.md, asked of the portal: every route × method × role, and no route without a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import transaction
from django.test import Client, override_settings
from django.urls import URLResolver, get_resolver
from django.utils import timezone

from inference.jobs.models import Job
from inference.routing import rules
from inference.routing.models import RoutedStudy
from inference.training import previews
from inference.training.config import check
from inference.training.models import CrossValidation, TrainingRun
from inference.tuning.models import SettingsSearch
from portal.accounts import services as accounts
from portal.accounts.models import ApiToken, Role
from portal.annotation import campaigns
from portal.annotation.design import QuestionSpec
from studies.cohorts import services as cohorts
from studies.cohorts import table_imports
from studies.cohorts.clinical import ClinicalVariable
from studies.deid import services as deid
from studies.deid.models import PixelReview
from studies.deid.profile import Profile
from studies.dimse import nodes
from studies.duplicates.models import Pair
from studies.ingest import store
from studies.models import ImportBatch, Refusal
from tests.factories import ProjectFactory, UserFactory, ct_slice, make_ct_series, member, part10_bytes
from tests.portal.rows import LABELS, entry, evaluation_row, prediction_row, version_row

PAGE = Path(settings.BASE_DIR) / "docs" / "permissions.md"
ROLES = ["anonymous", "outsider", "viewer", "reader", "engineer", "manager", "administrator"]
GENERAL, OF_PROJECT, OF_TASK = "/dicomweb/", "/dicomweb/projects/<slug>/", "/dicomweb/tasks/<task>/"
# Static files of the viewer: they hold no data and may be absent; asked in tests/portal/viewer.
ASSETS = {"viewer_asset", "viewer_module"}
INSTALLED_VIEWER = {"viewer_page", "viewer_project_page", "viewer_task_page"}


def lines() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(route, method, {role: answer}) of the page; a DICOMweb line stands for both roots."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 9 or not cells[0].startswith("`"):
            continue
        route, method, *answers = cells
        route, expected = route.strip("`"), dict(zip(ROLES, answers, strict=True))
        if route.startswith("dicomweb:"):
            resource = route.removeprefix("dicomweb:")
            yield GENERAL + resource, method, expected
            # A project's root is not there for those who are not in the project.
            yield OF_PROJECT + resource, method, {**expected, "outsider": "404"}
        elif route.startswith("task:"):
            yield OF_TASK + route.removeprefix("task:"), method, expected
        else:
            yield route, method, expected


def routes() -> dict[str, str]:
    """Name (or path, where it has none) → path with `<parameter>`s, of every route of the portal."""
    found: dict[str, str] = {}

    def walk(patterns, prefix: str) -> None:
        for pattern in patterns:
            path = prefix + _readable(str(pattern.pattern))
            if isinstance(pattern, URLResolver):
                walk(pattern.url_patterns, path)
            elif "format" not in path:  # the same views again with a suffix
                found.setdefault(pattern.name or path, path)

    walk(get_resolver().url_patterns, "/")
    return found


def _readable(pattern: str) -> str:
    pattern = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    pattern = re.sub(r"\(\?P<(\w+)>(?:\[[^\]]*\]|[^()\[\]])*\)", r"<\1>", pattern)
    return re.sub(r"<\w+:(\w+)>", r"<\1>", pattern)


LINES = list(lines())
ROUTES = routes()


def test_every_route_has_a_line():
    missing = set(ROUTES) - {route for route, _, _ in LINES} - ASSETS
    assert not missing, f"docs/permissions.md does not say who may use: {', '.join(sorted(missing))}"


def test_every_line_has_a_route():
    gone = {route for route, _, _ in LINES} - set(ROUTES)
    assert not gone, f"docs/permissions.md names routes that do not exist: {', '.join(sorted(gone))}"


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker, tmp_path_factory):
    """One of everything in a project, made once; each test runs inside a savepoint of it."""
    media = tmp_path_factory.mktemp("permissions") / "media"
    with django_db_blocker.unblock(), override_settings(MEDIA_ROOT=media), transaction.atomic():
        yield build()
        transaction.set_rollback(True)


def rounds_summary() -> dict:
    """What a segmentation's cross-validation keeps, of two folds of which one could not be judged."""
    figure = entry(0.9, 0.8, 0.95, 3)
    figures = {"Liver": {key: figure for key in ("dice", "hd95_mm", "nsd", "case_sensitivity")}}
    fold = {"training": 2, "test": 1, "test_patients": 1, "unseen": [], "failed": [], "problem": ""}
    rounds = [
        {**fold, "name": "fold 1", "judged": 1, "epochs": 3, "seconds": 61.0, "structures": figures},
        {**fold, "name": "fold 2", "judged": 0, "problem": "there is no training case", "structures": {}},
    ]
    schemes = {"folds": {"title": "by fold", "structures": figures, "rounds": rounds}}
    return {"structures": ["Liver"], "schemes": schemes, "seconds": 61.0}


def build() -> SimpleNamespace:
    project = ProjectFactory(slug="mine")
    users = {role.value: member(project, role, username=role.value) for role in Role}
    users["outsider"] = UserFactory(username="outsider")
    users["administrator"] = UserFactory(username="administrator", is_superuser=True)
    manager = users["manager"]
    series = [make_ct_series(project, 2, PatientID=f"P{number}") for number in range(3)]
    study = series[0].study
    cohort = cohorts.create(project=project, name="Open", by=manager)
    cohorts.add_studies(cohort, [one.study for one in series])
    case = cohort.cases.order_by("pk")[0]
    reference = cohort.reference_standards.create(name="Tracings", source="import", labels=LABELS)
    version = version_row(project)
    prediction = prediction_row(version, study)
    evaluation = evaluation_row(version, reference, {"Liver": {"dice": entry(0.9, 0.8, 0.95, 3)}}, [0.9, 0.8, 0.7])
    job = Job.objects.create(
        project=project, task="inference.evaluation.evaluate", title="Evaluate", queue="infer", state="failed",
        finished_at=timezone.now(),
    )  # fmt: skip
    config = check({"name": "organs", "training": {"patch": [16, 16, 16]}})
    trained = Job.objects.create(project=project, task="inference.training.tasks.train", title="Train", queue="train")
    training = TrainingRun.objects.create(project=project, name="Run", config=config, reference=reference, job=trained)
    validation = CrossValidation.objects.create(
        project=project,
        name="Rounds",
        config=config,
        reference=reference,
        summary=rounds_summary(),
        finished_at=timezone.now(),
        job=Job.objects.create(
            project=project, task="inference.training.tasks.cross_validate", title="Rounds", queue="train"
        ),
    )  # fmt: skip
    preview = Job.objects.create(
        project=project, task="inference.training.tasks.preview_preprocessing", title="Preview", queue="default",
        parameters={"series": series[0].pk, "steps": []},
    )  # fmt: skip
    previews.folder_of(preview.pk).mkdir(parents=True)
    (previews.folder_of(preview.pk) / "before-0.png").write_bytes(b"PNG")
    search = SettingsSearch.objects.create(
        project=project, name="Search", config={}, search={"trials": 1, "space": {}}, reference=reference, job=job
    )
    campaign = campaigns.create(
        project=project,
        by=manager,
        name="Nodules",
        cohort=cohort,
        readers=[users["reader"]],
        overlap=1,
        questions=[QuestionSpec("Nodule?", "yes_no")],
        segments=[],
    )
    campaigns.start(campaign, by=manager)
    task = campaign.tasks.order_by("position")[0]
    accounts.issue_token(user=users["administrator"], name="theirs")
    refusal = conflict(project, series[0])
    # Nobody listens there, and a switched off node is not called.
    node = nodes.create(project, None, name="PACS", ae_title="PACS", host="127.0.0.1", port=9, active=False)
    export = deid.order(project=project, profile=Profile(), by=manager, cohort=cohort)
    first = series[0].instances.order_by("pk")[0]
    review = PixelReview.objects.create(
        series=series[0], digest="", looked_at=2, frames=2, suspected=True, pictures=[[first.pk, 0]]
    )
    pair = Pair.objects.create(one=series[0], other=series[1], distance=3)
    table = table_imports.keep(
        b"PatientID,CRP\nP0,5\n", project=project, purpose="variables", name="labs.csv", by=manager
    )
    variable = ClinicalVariable.objects.create(project=project, name="Stage", kind="category")
    rule = rules.create(
        project, by=manager, name="Organs", version=version, push=True, node=node,
        conditions={"modality": ["CT"], "study_description": {"how": "contains", "text": "test"}},
    )  # fmt: skip
    routed = RoutedStudy.objects.create(
        rule=rule, rule_name=rule.name, study=study, outcome="present", version=version, image=series[0], node=node,
        number_of_instances=2, prediction=prediction, told=True, push="failed", push_cause="The remote did not answer.",
    )  # fmt: skip
    return SimpleNamespace(
        users=users,
        project=project,
        # What <pk> stands for, by the beginning of the route's name; the longest that fits counts.
        keys={
            "token_": ApiToken.objects.get().pk,
            "member_": project.memberships.get(user=users["viewer"]).pk,
            "user_": users["outsider"].pk,
            "second_factor_": users["outsider"].pk,
            "study": study.pk,
            "api_study": study.pk,
            "open_study": study.pk,
            "patient": study.patient_id,  # a key, not the DICOM identifier
            "series_": series[0].pk,
            "api_series": series[0].pk,
            "import_batch": ImportBatch.objects.filter(project=project).latest("pk").pk,
            "api_import": ImportBatch.objects.filter(project=project).latest("pk").pk,
            "refusal": refusal.pk,
            "api_refusal": refusal.pk,
            "node_": node.pk,
            "api_node": node.pk,
            "rule": rule.pk,
            "api_rule": rule.pk,
            "routed_": routed.pk,
            "api_routed": routed.pk,
            "export": export.pk,
            "api_export": export.pk,
            "cohort": cohort.pk,
            "case_remove": cohort.pk,
            "duplicate_": pair.pk,
            "table": table.pk,
            "api_table": table.pk,
            "api_pair": pair.pk,
            "api_variable": variable.pk,
            "api_cohort": cohort.pk,
            "api_reference": reference.pk,
            "model": version.model_id,
            "api_model": version.model_id,
            "version": version.pk,
            "card": version.pk,
            "promote": version.pk,
            "roll_back": version.model_id,
            "api_version": version.pk,
            "api_prediction": prediction.pk,
            "prediction": prediction.pk,
            "prediction_": prediction.pk,
            "evaluation": evaluation.pk,
            "api_evaluation": evaluation.pk,
            "job": job.pk,
            "api_job": job.pk,
            "api_training_run": training.pk,
            "training_toml": training.pk,
            "cross_validation": validation.pk,
            "api_cross_validation": validation.pk,
            "api_settings_search": search.pk,
            "job_export": trained.pk,
            "preprocessing_": series[0].pk,
            "preprocessing_of_cohort": cohort.pk,
            "campaign": campaign.pk,
            "api_campaign": campaign.pk,
            "reading_": task.pk,
            "reading_next": campaign.pk,
        },
        values={
            "slug": project.slug,
            "provider_id": "oidc",
            "case": case.pk,
            "review": review.pk,
            "number": 0,
            "task": task.pk,
            "step": "pause",
            "side": "before",
            "job": preview.pk,
            "extension": "csv",
            "study_instance_uid": study.study_instance_uid,
            "rest": "viewer",
            "frames": "1",
            "path": "7FE00010",
        },
        image=series[0],
        object=multipart(ct_slice(7, StudyInstanceUID=study.study_instance_uid, PatientID="P0")),
        of_task=identifiers_in_task(task),
        sessions={"anonymous": "", **{role: session_of(user) for role, user in users.items()}},
        # Fields that a service needs before it can look at the role: what is asked for names the project.
        bodies={
            "project_select": {"project": project.slug},
            "member_set": {"username": "outsider", "role": "viewer"},
            "theme": {"theme": "light"},
            "studies": {"q": "x"},
            "study_move": {"project": project.slug},
            "api_study-move": {"project": project.slug},
            "rule_create": {"project": project.slug},
            "rule_preview": {"project": project.slug},
            "rule_run": {"days": "30"},
            "api_rule-list": {"project": project.slug, "name": "Other", "version": version.pk},
            "api_rule-try": {"project": project.slug, "version": version.pk},
            "api_rule-move": {"up": True},
            "api_rule-run": {"days": "30", "confirm": 0},
            "exports": {"project": project.slug},
            "reidentify": {"project": project.slug, "pseudonym": "RR-NOBODY"},
            "cohort_create": {"project": project.slug, "name": "Other"},
            "table_create": {"project": project.slug},
            "pictures": {"project": project.slug},
            "api_table-list": {"project": project.slug},
            "api_table-choose": {"choices": {}},
            "campaign_create": {"project": project.slug},
            "training_create": {"project": project.slug},
            "against_traditional": {"reference": reference.pk},
            "run_create": {"project": project.slug},
            "evaluate_create": {"project": project.slug},
            "campaign_readers": {"action": "reassign"},
            "api_import-list": {"project": project.slug},
            "api_model-import-file": {
                "project": project.slug,
                "file": SimpleNamespace(name="m.zip", read=lambda: b"PK"),
            },
            "api_cohort-list": {"project": project.slug, "name": "Other"},
            "api_cohort-add-studies": {"studies": [study.pk]},
            "api_export-list": {"project": project.slug, "cohort": cohort.pk},
            "api_cohort-freeze": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "seed": 1},
            "api_training_run-list": {
                "project": project.slug,
                "cohort": cohort.pk,
                "config": {"name": "x"},
                "name": "x",
            },
            "api_cross_validation-list": {
                "project": project.slug,
                "cohort": cohort.pk,
                "config": {"name": "x"},
            },
            "api_model-ensembles": {"name": "together", "versions": [version.pk, version.pk]},
            "job_priority": {"priority": "urgent"},
            "api_job-priority": {"priority": "urgent"},
            "api_prediction-explain": {"method": "occlusion"},
            "api_settings_search-list": {"project": project.slug, "cohort": cohort.pk, "config": {"name": "x"}},
            "api_preview-list": {"series": series[0].pk, "steps": [{"name": "median"}]},
            "api_learning_rate-list": {"project": project.slug, "cohort": cohort.pk, "config": {"name": "x"}},
            "tuning_create": {"project": project.slug},
            "api_prediction-run": {"version": version.pk, "studies": [study.pk]},
            "api_evaluation-list": {"version": version.pk, "cohort": cohort.pk, "reference": reference.pk},
            "card_edit": {"base": 0, "limits": "Adults only."},
            "api_version-card": {"revision": 0, "sections": {"limits": "Adults only."}},
            "api_version-promote": {"to": "validated", "reason": "because it is good"},
            "api_campaign-list": {
                "project": project.slug,
                "cohort": cohort.pk,
                "name": "Other",
                "readers": ["reader"],
                "overlap": 1,
                "questions": [{"position": 1, "text": "Nodule?", "kind": "yes_no"}],
            },
        },
    )


def conflict(project, series) -> Refusal:
    """A refused file: the UID of a stored object, other pixels."""
    image = series.instances.order_by("pk")[0]
    other = ct_slice(
        9,
        SOPInstanceUID=image.sop_instance_uid,
        SeriesInstanceUID=series.series_instance_uid,
        StudyInstanceUID=series.study.study_instance_uid,
        PatientID="P0",
    )
    store.store_file(part10_bytes(other), batch=store.open_batch(project, ImportBatch.Source.COMMAND), name="other.dcm")
    return Refusal.objects.get(batch__project=project)


def address(world, route: str) -> str:
    values = dict(world.values)
    fitting = [key for key in world.keys if route.startswith(key)]
    if fitting:
        values["pk"] = world.keys[max(fitting, key=len)]
    image = world.image
    instance = image.instances.order_by("pk")[0]
    values["study"] = image.study.study_instance_uid
    values["series"] = image.series_instance_uid
    values["instance"] = instance.sop_instance_uid
    path = ROUTES[route]
    if path.startswith(OF_TASK):
        values |= world.of_task
    path = re.sub(r"<(\w+)>", lambda match: str(values[match.group(1)]), path)
    if path.endswith("/wado"):
        path += (
            f"?requestType=WADO&studyUID={values['study']}&seriesUID={values['series']}&objectUID={values['instance']}"
        )
    return path


def multipart(dataset) -> bytes:
    head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
    return head + part10_bytes(dataset) + b"\r\n--part--\r\n"


def session_of(user) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies.output(header="")


def identifiers_in_task(task) -> dict[str, str]:
    """UIDs as the task's own root gives them to its reader: a blinded study has others there."""
    client = Client()
    client.force_login(task.reader)
    root = f"/dicomweb/tasks/{task.pk}"
    study = client.get(f"{root}/studies").json()[0]["0020000D"]["Value"][0]
    series = client.get(f"{root}/studies/{study}/series").json()[0]["0020000E"]["Value"][0]
    instances = client.get(f"{root}/studies/{study}/series/{series}/instances").json()
    return {"study": study, "series": series, "instance": instances[0]["00080018"]["Value"][0]}


def verdict(route: str, expected: str, response) -> str:
    if route == "readyz" and response.status_code == 503:  # no worker runs beside this test
        return "in"
    if response.status_code == 401:
        return "login"
    if response.status_code == 302 and response["Location"].startswith("/login/?next="):
        return "login"
    if response.status_code in (403, 404) or (expected.isdigit() and response.status_code == int(expected)):
        return str(response.status_code)
    return "in" if response.status_code < 500 and response.status_code != 405 else str(response.status_code)


CASES = [
    pytest.param(route, method, role, answer, id=f"{method} {route} {role}")
    for route, method, expected in LINES
    for role, answer in expected.items()
]


@pytest.mark.django_db
@pytest.mark.parametrize(("route", "method", "role", "answer"), CASES)
def test_answer(world, route, method, role, answer):
    if route not in ROUTES:
        pytest.fail(f"{route} does not exist")
    client = Client(raise_request_exception=False)
    client.cookies = SimpleCookie(world.sessions[role])
    url = address(world, route)
    if method == "GET":
        response = client.get(url)
    elif "/dicomweb/" in url:
        kind = 'multipart/related; type="application/dicom"; boundary=part'
        # A task takes SEG and SR only (tests/portal/annotation), so there an empty body asks who is let in.
        body = b"--part--" if route.startswith(OF_TASK) else world.object
        response = client.post(url, body, content_type=kind)
    elif route in ("api_import-list", "api_model-import-file"):
        response = client.post(url, world.bodies[route])
    elif method in ("PATCH", "DELETE"):
        response = client.generic(method, url, b"{}", content_type="application/json")
    else:
        kind = {"content_type": "application/json"} if route.startswith(("api_", "reading_")) else {}
        response = client.post(url, world.bodies.get(route, {}), **kind)
    if response.status_code == 503 and route in INSTALLED_VIEWER:
        pytest.skip("the viewer is not installed for this DATA")
    if answer == "*":
        assert_sees_nothing(response)
    else:
        assert verdict(route, answer, response) == answer, f"{response.status_code}: {response.content[:300]!r}"


def assert_sees_nothing(response) -> None:
    """An outsider at the general DICOMweb root: an empty list, or not allowed to store."""
    assert response.status_code in (200, 204, 403)
    assert response.status_code != 200 or response.json() == []
