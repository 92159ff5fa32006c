"""The audit trail: what it holds, that it cannot be changed, and that nothing happens without it."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.db.utils import DatabaseError
from django.urls import reverse

from portal.accounts import services
from portal.accounts.addresses import client_address
from portal.accounts.audit import trail
from portal.accounts.audit.models import AuditEvent, Outcome
from portal.accounts.models import Membership, Role
from portal.annotation import campaigns
from studies.models import ImportBatch, Instance
from tests.factories import ProjectFactory, UserFactory, ct_slice, make_ct_series, member
from tests.studies.dicomweb.fronted import FrontClient, new_front
from tests.test_permissions import multipart

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The window stays the same until `clock` is called."""
    now = [7]
    monkeypatch.setattr(trail, "window", lambda seconds: now[0])
    return lambda: now.append(now.pop() + 1)


@pytest.fixture
def project():
    return ProjectFactory(slug="liver", name="Liver")


@pytest.fixture
def series(project):
    return make_ct_series(project, 2, PatientName="Secret^Sally", PatientID="MRN-12345")


def rows(action: str, **narrow) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action, **narrow).order_by("id"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_auditevent SET action = 'x'",
        "UPDATE audit_auditevent SET action = 'x' WHERE false",
        "DELETE FROM audit_auditevent",
        "TRUNCATE audit_auditevent",
        "INSERT INTO audit_auditevent SELECT * FROM audit_auditevent ON CONFLICT (id) DO UPDATE SET action = 'x'",
    ],
)
def test_the_owner_of_the_table_cannot_change_a_row(statement):
    trail.record("study.view", kind="studies.study", key=1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'audit_auditevent'")
        assert cursor.fetchone() == (True,)
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            cursor.execute(statement)
        # A: also in sessions that put ordinary triggers to sleep.
        cursor.execute("SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'audit_auditevent'::regclass")
        assert cursor.fetchone()[0] in (b"A", "A")
    assert AuditEvent.objects.get().action == "study.view"


def test_a_page_view_says_who_what_whose_and_from_where(client, project, series):
    user = member(project, Role.VIEWER)
    client.force_login(user)
    before = AuditEvent.objects.count()
    response = client.get(reverse("study", args=[series.study_id]), REMOTE_ADDR="192.0.2.7")
    row = rows("study.view")[-1]
    assert AuditEvent.objects.count() == before + 1
    assert (row.user, row.project, row.patient) == (user, project, series.study.patient_id)
    assert (row.object_kind, row.object_id) == ("studies.study", str(series.study_id))
    assert (row.address, row.outcome) == ("192.0.2.7", Outcome.SUCCESS)
    assert row.request_id == response["X-Request-ID"]


@pytest.mark.parametrize(
    ("route", "argument", "action"),
    [
        ("patient", "patient", "patient.view"),
        ("open_study", "study", "study.open"),
        ("api_study-detail", "study", "study.view"),
        ("api_series-detail", "series", "series.view"),
        ("study_thumbnail", "study", "study.thumbnail"),
    ],
)
def test_every_way_to_look_at_a_patient_names_the_patient(client, project, series, route, argument, action):
    user = member(project, Role.VIEWER)
    client.force_login(user)
    keys = {"patient": series.study.patient_id, "study": series.study_id, "series": series.pk}
    client.get(reverse(route, args=[keys[argument]]))
    (row,) = rows(action)
    assert (row.user, row.project, row.patient) == (user, project, series.study.patient_id)


def test_a_superuser_is_recorded_like_everybody(client, series):
    root = UserFactory(is_superuser=True)
    client.force_login(root)
    client.get(reverse("study", args=[series.study_id]))
    assert rows("study.view")[0].user == root


def test_an_attempt_at_another_projects_study_is_kept_as_denied(client, project, series):
    outsider = UserFactory()
    client.force_login(outsider)
    assert client.get(reverse("study", args=[series.study_id])).status_code == 404
    assert client.get(reverse("study", args=[10**6])).status_code == 404
    assert client.get(f"/dicomweb/studies/{series.study.study_instance_uid}/metadata").status_code == 404
    viewed, read = rows("study.view", user=outsider), rows("study.read", user=outsider)
    client.get(reverse("study", args=[series.study_id]))
    assert rows("study.view", user=outsider) == viewed, "once a window"
    assert [(row.outcome, row.project, row.patient) for row in viewed + read] == [
        (Outcome.DENIED, project, series.study.patient_id)
    ] * 2


def test_dicomweb_reads_are_kept_once_a_window_for_each_user_study_and_address(client, project, series, clock):
    study = series.study.study_instance_uid
    other = make_ct_series(project, 1, PatientID="P2")
    alice, bob = member(project, Role.VIEWER), member(project, Role.VIEWER)
    for user in (alice, bob):
        client.force_login(user)
        for _ in range(3):
            assert client.get(f"/dicomweb/studies/{study}/metadata").status_code == 200
            assert client.get(f"/dicomweb/studies/{study}/series/{series.series_instance_uid}").status_code == 200
    client.get(f"/dicomweb/studies/{study}/metadata", REMOTE_ADDR="192.0.2.8")
    client.get(f"/dicomweb/studies/{other.study.study_instance_uid}/metadata")
    assert [(row.user, row.object_id, row.address) for row in rows("study.read")] == [
        (alice, str(series.study_id), "127.0.0.1"),
        (bob, str(series.study_id), "127.0.0.1"),
        (bob, str(series.study_id), "192.0.2.8"),
        (bob, str(other.study_id), "127.0.0.1"),
    ]
    clock()
    client.get(f"/dicomweb/studies/{study}/metadata")
    assert len(rows("study.read")) == 5, "another window, another row"
    client.get("/dicomweb/studies")
    assert rows("list.view")[-1].object_kind == "dicomweb"


@pytest.mark.django_db(transaction=True)
def test_frames_that_the_front_answers_are_recorded_before_the_first_one(project, series):
    front = new_front(seconds=3600.0)
    user = member(project, Role.VIEWER)
    client = FrontClient(front)
    client.force_login(user)
    frame = f"{_instance(series)}/frames/1"
    try:
        for number in range(4):
            assert client.get(frame).status_code == 200
            assert len(rows("study.read")) == 1, f"after frame {number}"
        assert len(client.answered) == 4
        assert rows("study.read")[0].patient == series.study.patient_id
        # Another process knows nothing of it, and still writes no second row.
        trail_of_another = new_front(seconds=3600.0)
        _forget_what_this_process_wrote()
        FrontClient(trail_of_another, headers={}).get(frame)
        again = FrontClient(trail_of_another)
        again.cookies = client.cookies
        assert again.get(frame).status_code == 200
        assert len(rows("study.read")) == 1
        trail_of_another.close()
    finally:
        front.close()


def _instance(series) -> str:
    uid = series.instances.order_by("pk")[0].sop_instance_uid
    return f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}/instances/{uid}"


def _forget_what_this_process_wrote() -> None:
    from studies.dicomweb import reads

    reads._known._known.clear()
    trail._written._known.clear()


@pytest.fixture
def unwritable():
    """A trail that takes no row: what a full disk or a lost right would do."""

    def shut() -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE audit_auditevent ADD CONSTRAINT shut CHECK (false) NOT VALID")

    yield shut
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_auditevent DROP CONSTRAINT IF EXISTS shut")


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_recorded_does_not_happen(client, project, series, unwritable):
    manager, reader = member(project, Role.MANAGER), member(project, Role.READER)
    client.force_login(manager)
    _forget_what_this_process_wrote()
    unwritable()
    page = client.get(reverse("study", args=[series.study_id]))
    assert page.status_code == 503
    assert "Secret" not in page.content.decode()
    assert "MRN-12345" not in page.content.decode()
    read = client.get(f"/dicomweb/studies/{series.study.study_instance_uid}/metadata")
    assert (read.status_code, "MRN-12345" in read.content.decode()) == (503, False)
    assert client.get(reverse("api_study-detail", args=[series.study_id])).status_code == 503
    assert (
        client.post(
            reverse("member_set", args=[project.slug]), {"username": reader.username, "role": "engineer"}
        ).status_code
        == 503
    )
    assert Membership.objects.get(user=reader).role == Role.READER
    with pytest.raises(trail.NotRecorded):
        services.set_active(reader, False)
    reader.refresh_from_db()
    assert reader.is_active
    client.logout()
    assert (
        client.post(reverse("login"), {"username": reader.username, "password": "correct horse battery"}).status_code
        == 503
    )
    assert client.get(reverse("home")).status_code == 302, "nobody is signed in"


@pytest.mark.django_db(transaction=True)
def test_frames_stay_away_where_the_front_cannot_record_them(project, series, unwritable):
    front = new_front(seconds=3600.0)
    client = FrontClient(front)
    client.force_login(member(project, Role.VIEWER))
    _forget_what_this_process_wrote()
    unwritable()
    try:
        for _ in range(2):
            answer = client.get(f"{_instance(series)}/frames/1")
            assert (answer.status_code, answer["Content-Type"]) == (503, "application/json")
    finally:
        front.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("known", [False, True])
def test_objects_that_cannot_be_recorded_are_not_stored(project, series, unwritable, known):
    """A new series by the views, and one more object of a known series by the statement of the front."""
    front = new_front(seconds=3600.0)
    client = FrontClient(front, raise_request_exception=False)
    secret = services.issue_token(user=member(project, Role.ENGINEER))
    more = {"StudyInstanceUID": series.study.study_instance_uid, "PatientID": "MRN-12345"} if known else {}
    if known:
        more |= {"SeriesInstanceUID": series.series_instance_uid, "PatientName": "Secret^Sally"}
    before = Instance.objects.count()
    unwritable()
    try:
        answer = client.post(
            "/dicomweb/studies",
            multipart(ct_slice(5, **more)),
            content_type='multipart/related; type="application/dicom"; boundary=part',
            HTTP_AUTHORIZATION=f"Token {secret}",
        )
    finally:
        front.close()
    assert answer.status_code >= 400
    assert Instance.objects.count() == before


def test_changes_are_rolled_back_together_with_their_rows(project):
    reader = member(project, Role.READER)
    before = AuditEvent.objects.count()
    with transaction.atomic():
        services.set_role(project=project, user=reader, role=Role.ENGINEER)
        assert AuditEvent.objects.count() == before + 1
        transaction.set_rollback(True)
    assert AuditEvent.objects.count() == before


def test_members_roles_tokens_and_accounts_leave_rows(client, project):
    manager = member(project, Role.MANAGER)
    root, other = UserFactory(is_superuser=True), UserFactory(username="other")
    client.force_login(manager)
    client.post(reverse("member_set", args=[project.slug]), {"username": "other", "role": "engineer"})
    (row,) = rows("member.set", object_id=str(other.pk))
    assert (row.user, row.project, row.object_kind, row.detail) == (
        manager,
        project,
        "accounts.user",
        {"role": "engineer"},
    )
    client.post(reverse("member_remove", args=[project.slug, Membership.objects.get(user=other).pk]))
    assert rows("member.remove")[0].user == manager
    client.post(reverse("token_create"), {"name": "my notebook", "expires": "30", "scope": "read"})
    (made,) = rows("token.create")
    assert made.user == manager
    client.post(reverse("token_revoke", args=[made.object_id]))
    assert rows("token.revoke")[0].object_id == made.object_id
    client.force_login(root)
    client.post(reverse("user_active", args=[other.pk]), {"active": "no"})
    client.post(reverse("user_active", args=[other.pk]), {"active": "yes"})
    assert [row.object_id for row in rows("user.deactivate") + rows("user.activate")] == [str(other.pk)] * 2


def test_a_change_that_is_refused_is_kept_as_failed(client, project):
    manager = member(project, Role.MANAGER, username="only")
    client.force_login(manager)
    client.post(reverse("member_set", args=[project.slug]), {"username": "only", "role": "viewer"})
    assert Membership.objects.get(user=manager).role == Role.MANAGER
    assert [(row.outcome, row.project) for row in rows("member.set", user=manager)] == [(Outcome.FAILED, project)]


def test_campaigns_leave_rows(project):
    from studies.cohorts import services as cohorts

    manager, reader = member(project, Role.MANAGER), member(project, Role.READER)
    cohort = cohorts.create(project=project, name="All", by=manager)
    cohorts.add_studies(cohort, [make_ct_series(project, 1).study])
    from portal.annotation.design import QuestionSpec

    campaign = campaigns.create(
        project=project, by=manager, name="Nodules", cohort=cohort, readers=[reader], overlap=1,
        questions=[QuestionSpec("Nodule?", "yes_no")],
    )  # fmt: skip
    for step in (campaigns.start, campaigns.pause, campaigns.resume, campaigns.close):
        step(campaign, by=manager)
    found = AuditEvent.objects.filter(object_kind="annotation.campaign").order_by("id")
    assert [row.action.partition(".")[2] for row in found] == ["create", "start", "pause", "resume", "close"]
    assert {(row.user, row.project) for row in found} == {(manager, project)}


def test_imports_leave_a_row_for_each_study_that_got_something(project):
    from studies.ingest import store
    from tests.factories import ct_datasets, part10_bytes

    user = member(project, Role.ENGINEER)
    batch = store.open_batch(project, ImportBatch.Source.UPLOAD, user)
    one, two = ct_datasets(2, PatientID="A"), ct_datasets(2, PatientID="B")
    for dataset in [*one, *two]:
        store.store_file(part10_bytes(dataset), batch=batch)
    assert [(row.user, row.object_id) for row in rows("import.open")] == [(user, str(batch.pk))]
    stored = rows("study.store")
    assert [(row.user, row.detail["batch"]) for row in stored] == [(user, batch.pk)] * 2
    assert len({row.patient for row in stored}) == 2


def test_no_name_and_no_patient_id_is_anywhere_in_the_trail(client, project, series):
    manager = member(project, Role.MANAGER)
    client.force_login(manager)
    client.post(reverse("studies"), {"q": "Secret"})
    client.get("/dicomweb/studies?PatientName=Secret*")
    for route, key in (("study", series.study_id), ("patient", series.study.patient_id)):
        client.get(reverse(route, args=[key]))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), bool_or(audit_auditevent::text ~* 'secret|sally|MRN-12345') FROM audit_auditevent"
        )
        n, named = cursor.fetchone()
    assert n > 5
    assert named is False


def test_free_text_is_refused():
    with pytest.raises(ValueError, match="free text"):
        trail.record("study.view", kind="studies.study", key=1, remark="Sally Secret")
    with pytest.raises(ValueError, match="noun"):
        trail.record("looked at it", kind="studies.study", key=1)


def test_a_route_that_nobody_thought_of_is_recorded_under_its_name(client, project, settings):
    settings.AUDIT_RULES = "tests.portal.accounts.test_audit.NO_RULES"
    from portal.accounts.audit import rules

    rules.table.cache_clear()
    try:
        client.force_login(member(project))
        client.get(reverse("cohorts"))
        client.post(reverse("theme"), {"theme": "light"})
    finally:
        rules.table.cache_clear()
    assert rows("page.view")[-1].object_kind == "cohorts"
    assert rows("page.change")[-1].object_kind == "theme"


NO_RULES: dict = {}


def test_every_rule_belongs_to_a_route_and_leads_to_an_object():
    from django.apps import apps

    from portal.trail.rules import RULES
    from tests.test_permissions import ROUTES

    assert set(RULES) <= set(ROUTES)
    for rule in RULES.values():
        if rule.subject is not None:
            model = apps.get_model(rule.subject.model)
            columns = [column for column in ("pk", rule.subject.project, rule.subject.patient) if column]
            assert list(model._default_manager.values_list(*columns)[:1]) is not None


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "203.0.113.9", "10.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (2, "1.1.1.1, 198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (1, "", "10.0.0.1"),
        (1, "<script>", None),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_only_what_own_proxies_wrote_is_believed_about_addresses(settings, proxies, forwarded, expected):
    settings.TRUSTED_PROXIES = proxies
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": forwarded}
    assert client_address(environ) == expected
