"""What a token of each scope reaches, in which project, and when it ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from portal.accounts import services
from portal.accounts.errors import AccountError
from portal.accounts.models import ApiToken, Role
from studies.models import Instance
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, ct_slice, make_ct_series, member
from tests.studies.dicomweb.fronted import FrontClient, new_front
from tests.studies.dicomweb.test_front import noticed
from tests.test_permissions import multipart

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return ProjectFactory(slug="lung")


def token(**values) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Token {services.issue_token(**values)}"}


def api_read(client, project, how):
    return client.get("/api/studies/", **how)


def api_write(client, project, how):
    return client.post(
        "/api/cohorts/", {"project": project.slug, "name": "New"}, content_type="application/json", **how
    )


def dicomweb_read(client, project, how):
    return client.get("/dicomweb/studies", **how)


def dicomweb_write(client, project, how):
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    return client.post("/dicomweb/studies", multipart(ct_slice()), content_type=kind, **how)


@pytest.mark.parametrize("ask", [api_read, api_write, dicomweb_read, dicomweb_write])
@pytest.mark.parametrize(
    ("scope", "reaches"),
    [
        ("full", {api_read, api_write, dicomweb_read, dicomweb_write}),
        ("read", {api_read, dicomweb_read}),
        ("dicomweb", {dicomweb_read, dicomweb_write}),
        ("dicomweb_read", {dicomweb_read}),
    ],
)
def test_a_scope_reaches_so_far(client, project, scope, reaches, ask):
    how = token(user=member(project, Role.MANAGER), scope=scope)
    answer = ask(client, project, how)
    if ask in reaches:
        assert answer.status_code < 300, answer.content
    else:
        assert answer.status_code == 403
        assert "limited" in answer.content.decode()


def test_a_limited_token_as_password_of_basic_is_limited_too(client, project):
    import base64

    user = member(project, Role.MANAGER, username="alice")
    secret = services.issue_token(user=user, scope="dicomweb_read")
    words = base64.b64encode(f"alice:{secret}".encode()).decode()
    how = {"HTTP_AUTHORIZATION": f"Basic {words}"}
    assert dicomweb_read(client, project, how).status_code == 200
    assert dicomweb_write(client, project, how).status_code == 403


def test_a_token_made_before_scopes_still_does_everything(client, project):
    user = member(project, Role.MANAGER)
    ApiToken.objects.create(user=user, digest=ApiToken.digest_of("old"))
    how = {"HTTP_AUTHORIZATION": "Token old"}
    for ask in (api_read, api_write, dicomweb_read, dicomweb_write):
        assert ask(client, project, how).status_code < 300


@pytest.mark.parametrize("superuser", [False, True])
def test_a_token_of_one_project_finds_nothing_of_another(client, project, superuser):
    other = ProjectFactory(slug="liver")
    user = member(project, Role.MANAGER, is_superuser=superuser)
    MembershipFactory(project=other, user=user, role=Role.MANAGER)
    here, there = make_ct_series(project, 1), make_ct_series(other, 1)
    how = token(user=user, project=project)
    listed = client.get("/api/studies/", **how).json()["results"]
    assert [row["id"] for row in listed] == [here.study_id]
    assert client.get(f"/api/studies/{there.study_id}/", **how).status_code == 404
    assert client.get("/dicomweb/projects/liver/studies", **how).status_code == 404
    assert len(client.get("/dicomweb/studies", **how).json()) == 1
    assert api_write(client, other, how).status_code == 404
    assert api_write(client, project, how).status_code == 201
    assert len(client.get("/api/studies/", **token(user=user)).json()["results"]) == 2


def test_nobody_makes_a_token_for_a_project_of_others(project):
    with pytest.raises(AccountError, match="not a member"):
        services.issue_token(user=UserFactory(), project=project)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ends", ["expires", "revoked", "deactivated", "narrowed", "left"])
def test_the_front_stops_a_token_at_once(project, ends):
    other = ProjectFactory(slug="liver")
    user = member(project, Role.MANAGER)
    MembershipFactory(project=other, user=user, role=Role.MANAGER)
    series = make_ct_series(project, 1)
    uid = series.instances.get().sop_instance_uid
    frame = f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}/instances/{uid}"
    front = new_front(seconds=3600.0)
    how = token(user=user, expires_at=timezone.now() + timedelta(days=1))
    client = FrontClient(front)
    try:
        for _ in range(3):
            assert client.get(f"{frame}/frames/1", **how).status_code == 200
        assert len(client.answered) == 3
        made = ApiToken.objects.get()
        with noticed(front):
            if ends == "expires":
                ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
            elif ends == "revoked":
                services.revoke_token(made)
            elif ends == "deactivated":
                services.set_active(user, False)
            elif ends == "narrowed":
                ApiToken.objects.update(project=other)
            else:
                services.set_role(project=project, user=UserFactory(), role=Role.MANAGER)
                services.remove_member(project=project, user=user)
        expected = 404 if ends in ("narrowed", "left") else 401
        assert client.get(f"{frame}/frames/1", **how).status_code == expected
    finally:
        front.close()


@pytest.mark.django_db(transaction=True)
def test_the_front_lets_a_token_expire_without_a_notice(project):
    series = make_ct_series(project, 1)
    study = f"/dicomweb/studies/{series.study.study_instance_uid}/metadata"
    how = token(user=member(project, Role.VIEWER), expires_at=timezone.now() + timedelta(seconds=1.5))
    front = new_front(seconds=3600.0)
    client = FrontClient(front)
    try:
        assert client.get(study, **how).status_code == 200
        ends = ApiToken.objects.get().expires_at
        while timezone.now() < ends:
            pass
        assert client.get(study, **how).status_code == 401
    finally:
        front.close()


@pytest.mark.django_db(transaction=True)
def test_what_the_front_remembers_of_a_user_is_not_lent_to_a_narrower_token(project):
    other = ProjectFactory(slug="liver")
    user = member(project, Role.MANAGER)
    MembershipFactory(project=other, user=user, role=Role.MANAGER)
    series = make_ct_series(project, 1)
    uid = series.instances.get().sop_instance_uid
    frame = f"/dicomweb/studies/{series.study.study_instance_uid}/series/{series.series_instance_uid}/instances/{uid}"
    wide, narrow = token(user=user), token(user=user, project=other)
    front = new_front(seconds=3600.0)
    client = FrontClient(front)
    try:
        for _ in range(3):
            assert client.get(f"{frame}/frames/1", **wide).status_code == 200
        assert client.get(f"{frame}/frames/1", **narrow).status_code == 404
    finally:
        front.close()


@pytest.mark.django_db(transaction=True)
def test_the_front_stores_nothing_for_a_token_that_only_reads(project):
    user = member(project, Role.MANAGER)
    front = new_front(seconds=3600.0)
    client = FrontClient(front)
    try:
        reads = token(user=user, scope="dicomweb_read")
        assert dicomweb_read(client, project, reads).status_code == 200  # known to the front from here on
        assert dicomweb_write(client, project, reads).status_code == 403
        assert not Instance.objects.exists()
        assert dicomweb_write(client, project, token(user=user, scope="dicomweb")).status_code == 200
        assert Instance.objects.count() == 1
    finally:
        front.close()
