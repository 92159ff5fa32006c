"""The front answers as Django does, and nobody longer than they may be answered."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from django.db import connection
from django.test import Client

from portal.accounts.models import ApiToken, Role, User
from portal.accounts.services import issue_token, remove_member, revoke_token, set_active, set_role
from studies.models import Embargo, Instance, Origin
from tests import factories
from tests.studies.dicomweb.conftest import parts
from tests.studies.dicomweb.fronted import FrontClient, new_front
from tests.studies.dicomweb.test_access import every_route

FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
OCTETS = "application/octet-stream"


@pytest.fixture
def front():
    """As in the web process, but nothing is forgotten by its age, so that only notices can make it."""
    front = new_front(seconds=3600.0)
    yield front
    front.close()


@pytest.fixture
def hasty():
    """A front that remembers nothing: for tests in one transaction, whose notices never leave it."""
    front = new_front(seconds=0.0)
    yield front
    front.close()


@contextmanager
def noticed(front):
    """A notice takes a moment from the commit to the listener; without one this fails."""
    before = front.notices.generation()
    yield
    deadline = time.monotonic() + 5
    while front.notices.generation() == before:
        assert time.monotonic() < deadline, "the front heard of no change"
        time.sleep(0.001)


def comparable(response):
    """Status, headers and body without what is made anew for each answer."""
    content = response.content if not response.streaming else b"".join(response.streaming_content)
    headers = {name.lower(): value for name, value in response.items()}
    assert headers.pop("x-request-id")
    kind = headers.get("content-type", "")
    if kind.startswith("text/html"):
        content = b"a page"  # with a token of its own each time
    if "boundary=" in kind:
        boundary = kind.split("boundary=")[1]
        content = content.replace(boundary.encode(), b"BOUNDARY")
        headers["content-type"] = kind.replace(boundary, "BOUNDARY")
    return response.status_code, headers, content


def requests(series):
    """(path, headers) of reads of every kind, well-formed and not."""
    study = f"/studies/{series.study.study_instance_uid}"
    one = f"{study}/series/{series.series_instance_uid}"
    instance = f"{one}/instances/{series.instances.first().sop_instance_uid}"
    paths = ["/studies", "/series", "/instances", *every_route(series)]
    paths += ["/studies?limit=1", "/studies?PatientName=Test*&includefield=all", "/studies?Nonsense=1", "/nonsense"]
    paths += [f"{instance}/frames/{n}" for n in ("0", "2", "1,1", "1?accept=image/png", "1?", "x", "00001", "9" * 9)]
    paths += [f"{one}/instances/1.2.3/frames/1", f"{study}/series/1.2.3/instances/1.2.3/frames/1"]
    accepts = ["*/*", FRAMES, OCTETS, 'multipart/related; type="image/jpeg"', "image/png", "application/dicom+json"]
    accepts += ['multipart/related; type="application/dicom"', "application/dicom", "text/html"]
    more = [
        {},
        {"HTTP_ACCEPT_ENCODING": "gzip"},
        {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "10.0.0.1"},
    ]
    more += [{"HTTP_HOST": "localhost:9000"}, {"HTTP_HOST": "evil.example.org"}, {"HTTP_SEC_FETCH_MODE": "cors"}]
    for path in paths:
        yield path, {}
    for path in (paths[0], instance, f"{one}/metadata", f"{instance}/frames/1"):
        for headers in [{"HTTP_ACCEPT": accept} for accept in accepts] + more:
            yield path, headers


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by", ["session", "token"])
@pytest.mark.parametrize("base", ["/dicomweb", "/dicomweb/projects/lung", "/dicomweb/projects/none"])
def test_answers_are_those_of_django(front, alice, project, base, by):
    series = factories.make_ct_series(project, 2)
    slow, fast = Client(), FrontClient(front)
    credentials = {"HTTP_AUTHORIZATION": f"Token {issue_token(user=alice)}"} if by == "token" else {}
    if by == "session":
        slow.force_login(alice)
        fast.cookies = slow.cookies
    for path, headers in requests(series):
        expected = comparable(slow.get(base + path, **headers, **credentials))
        for attempt in ("first", "remembered"):
            got = comparable(fast.get(base + path, **headers, **credentials))
            assert got[1] == expected[1], (attempt, path, headers)
            assert got == expected, (attempt, path, headers)
    assert len(set(fast.answered)) > 20


@pytest.mark.django_db(transaction=True)
def test_frames_are_the_pixels(front, alice, project):
    datasets = factories.ct_datasets(3)
    series = factories.store_datasets(project, datasets)
    client = FrontClient(front)
    client.force_login(alice)
    base = f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}/instances"
    for k, dataset in enumerate(datasets):
        got = client.get(f"{base}/{dataset.SOPInstanceUID}/frames/1", HTTP_ACCEPT=FRAMES)
        assert parts(got) == [factories.ct_pixels(k).astype("<i2").tobytes()]
        alone = client.get(f"{base}/{dataset.SOPInstanceUID}/frames/1", HTTP_ACCEPT=OCTETS)
        assert alone.content == dataset.PixelData
    assert len(client.answered) == 6


@pytest.mark.django_db(transaction=True)
def test_a_series_of_frames_costs_no_query_each(front, alice, project, django_assert_num_queries):
    series = factories.make_ct_series(project, 20)
    client = FrontClient(front)
    client.force_login(alice)
    base = f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}/instances"
    uids = list(series.instances.values_list("sop_instance_uid", flat=True))
    for _ in range(2):  # the first one goes into the audit trail
        client.get(f"{base}/{uids[0]}/frames/1")
    with django_assert_num_queries(0):
        for uid in uids:
            assert client.get(f"{base}/{uid}/frames/1").status_code == 200
    late = factories.ct_slice(
        20, StudyInstanceUID=series.study.study_instance_uid, SeriesInstanceUID=series.series_instance_uid
    )
    factories.store_datasets(project, [late])
    assert client.get(f"{base}/{late.SOPInstanceUID}/frames/1").status_code == 200  # came after the series was read


@pytest.mark.django_db(transaction=True)
def test_a_file_that_is_gone_is_djangos_to_answer(front, alice, project, settings):
    series = factories.make_ct_series(project, 1)
    instance = series.instances.get()
    client = FrontClient(front, raise_request_exception=False)
    client.force_login(alice)
    path = (
        f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}"
        f"/instances/{instance.sop_instance_uid}/frames/1"
    )
    assert client.get(path).status_code == 200
    (settings.MEDIA_ROOT / instance.file).write_bytes(b"short")
    assert client.get(path).status_code == 500
    assert client.answered == [path]


@pytest.mark.django_db
def test_other_methods_and_roots_are_left_to_django(hasty, alice, project):
    series = factories.make_ct_series(project, 1)
    client = FrontClient(hasty)
    client.force_login(alice)
    for path in ("/dicomweb/tasks/1/studies", "/studies/", "/api/studies/", "/dicomweb/studies/abc"):
        client.get(path)
    frame = next(path for path in every_route(series) if path.endswith("/frames/1"))
    for send in (client.head, client.post, client.delete, client.options):
        send("/dicomweb/studies")
        send("/dicomweb" + frame)
    client.logout()
    assert client.get("/dicomweb" + frame).status_code == 401
    assert client.get("/dicomweb" + frame, HTTP_AUTHORIZATION="Token nonsense").status_code == 401
    assert client.answered == []


@pytest.mark.django_db
def test_middleware_that_the_front_does_not_know_switches_it_off(settings, alice, project):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.gzip.GZipMiddleware"]
    front = new_front(seconds=0.0)
    client = FrontClient(front)
    client.force_login(alice)
    assert client.get("/dicomweb/studies").status_code == 200
    assert client.answered == []
    front.close()


@pytest.mark.django_db
def test_two_projects_with_the_same_series(hasty, project):
    datasets = factories.ct_datasets(1)
    other = factories.ProjectFactory()
    series = factories.store_datasets(project, datasets)
    factories.store_datasets(other, datasets)
    user = factories.member(project)
    set_role(project=other, user=user, role=Role.VIEWER)
    client, slow = FrontClient(hasty), Client()
    client.force_login(user)
    slow.force_login(user)
    path = next(path for path in every_route(series) if path.endswith("/frames/1"))
    for base in ("/dicomweb", f"/dicomweb/projects/{project.slug}", f"/dicomweb/projects/{other.slug}"):
        got = client.get(base + path)
        assert comparable(got) == comparable(slow.get(base + path))
        assert datasets[0].PixelData in got.content


def _frame_paths(series):
    return [
        f"{base}{path}"
        for base in ("/dicomweb", f"/dicomweb/projects/{series.study.project.slug}")
        for path in every_route(series)
        if path.endswith(("/frames/1", "/metadata", "/instances"))
    ]


def _frame_path(series):
    return next(path for path in _frame_paths(series) if path.endswith("/frames/1"))


def _remove(user, project):
    remove_member(project=project, user=user)


def _deactivate(user, project):
    set_active(user, False)


def _delete_sessions(user, project):
    from django.contrib.sessions.models import Session

    Session.objects.all().delete()
    ApiToken.objects.filter(user=user).delete()


def _revoke(user, project):
    from django.contrib.sessions.models import Session

    for token in ApiToken.objects.filter(user=user):
        revoke_token(token)
    Session.objects.all().delete()


def _behind_the_services(user, project):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM accounts_membership WHERE user_id = %s", [user.pk])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_remove, 404),
        (_behind_the_services, 404),
        (_deactivate, 401),
        (_delete_sessions, 401),
        (_revoke, 401),
        (lambda user, project: project.studies.get().delete(), 404),
    ],
)
def test_whoever_loses_access_loses_it_at_once(front, project, change, status):
    series = factories.make_ct_series(project, 1)
    paths = _frame_paths(series)
    user = factories.member(project, Role.VIEWER)
    by_session, by_token = FrontClient(front), FrontClient(front)
    by_session.force_login(user)
    token = {"HTTP_AUTHORIZATION": f"Bearer {issue_token(user=user)}"}
    for path in paths * 2:
        assert by_session.get(path).status_code == by_token.get(path, **token).status_code == 200, path
    assert len(by_session.answered) == len(by_token.answered) == 2 * len(paths)
    with noticed(front):
        change(user, project)
    for path in paths:
        assert by_session.get(path).status_code == by_token.get(path, **token).status_code == status, path


@pytest.mark.django_db(transaction=True)
def test_signing_out_and_a_new_password_end_a_session_at_once(front, project):
    series = factories.make_ct_series(project, 1)
    path = _frame_path(series)
    user = factories.member(project, Role.VIEWER)
    first, second = FrontClient(front), FrontClient(front)
    first.force_login(user)
    second.force_login(user)
    cookies = first.cookies.output()
    assert first.get(path).status_code == second.get(path).status_code == 200
    with noticed(front):
        Client.logout(first)
    first.cookies.load(cookies.replace("Set-Cookie: ", ""))
    assert (first.get(path).status_code, second.get(path).status_code) == (401, 200)
    user = User.objects.get(pk=user.pk)
    user.set_password("another horse entirely")
    with noticed(front):
        user.save()
    assert second.get(path).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_an_embargo_and_a_lesser_role_count_at_once(front, project):
    images = factories.make_ct_series(project, 1)
    study = images.study.study_instance_uid
    model = factories.make_ct_series(project, 1, StudyInstanceUID=study, origin=Origin.MODEL)
    reference = factories.make_ct_series(project, 1, StudyInstanceUID=study, origin=Origin.REFERENCE)
    user = factories.member(project, Role.ENGINEER)
    client = FrontClient(front)
    client.force_login(user)

    def seen():
        return [client.get(_frame_path(one)).status_code for one in (images, model, reference)]

    assert seen() == [200, 200, 200]
    with noticed(front):
        set_role(project=project, user=user, role=Role.READER)
    assert seen() == [200, 200, 404]
    with noticed(front):
        embargo = Embargo.objects.create(user=user, study=images.study, reason="campaign:1")
    assert seen() == [200, 404, 404]
    with noticed(front):
        embargo.delete()
    assert seen() == [200, 200, 404]


@pytest.mark.django_db(transaction=True)
def test_without_ears_nothing_is_remembered(front, project, monkeypatch):
    """The listening connection is cut: what was remembered counts no more."""
    series = factories.make_ct_series(project, 1)
    path = _frame_path(series)
    user = factories.member(project, Role.VIEWER)
    client = FrontClient(front)
    client.force_login(user)
    assert client.get(path).status_code == 200
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'readroom notices' "
            "AND datname = current_database()"
        )
    remove_member(project=project, user=user)
    _eventually_404(client, path)
    deadline = time.monotonic() + 5
    while front.notices.generation() is None:  # until it listens again
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.get(path).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_what_is_remembered_ends_by_its_age_too(project):
    front = new_front(seconds=0.2)
    series = factories.make_ct_series(project, 1)
    path = _frame_path(series)
    user = factories.member(project, Role.VIEWER)
    client = FrontClient(front)
    client.force_login(user)
    assert client.get(path).status_code == 200
    with connection.cursor() as cursor:  # a change of which no notice tells
        cursor.execute("ALTER TABLE accounts_membership DISABLE TRIGGER access_changed")
        cursor.execute("DELETE FROM accounts_membership WHERE user_id = %s", [user.pk])
        cursor.execute("ALTER TABLE accounts_membership ENABLE TRIGGER access_changed")
    time.sleep(0.25)
    assert client.get(path).status_code == 404
    front.close()


@pytest.mark.django_db(transaction=True)
def test_a_moved_file_is_found_again(front, alice, project, settings):
    series = factories.make_ct_series(project, 1)
    instance = series.instances.get()
    path = _frame_path(series)
    client = FrontClient(front)
    client.force_login(alice)
    expected = comparable(client.get(path))
    (settings.MEDIA_ROOT / instance.file).rename(settings.MEDIA_ROOT / "moved.dcm")
    with noticed(front):
        Instance.objects.filter(pk=instance.pk).update(file="moved.dcm")
    assert comparable(client.get(path)) == expected
    assert len(client.answered) == 2


def _eventually_404(client, path):
    deadline = time.monotonic() + 5
    while client.get(path).status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.01)
