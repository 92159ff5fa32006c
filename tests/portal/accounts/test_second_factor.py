"""Codes of an authenticator app: set up, asked for, used once, required, reset; and no way around."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import time

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import reverse

from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from portal.accounts.services import issue_token
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member
from tests.studies.dicomweb.fronted import FrontClient, new_front

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def optional(settings, tmp_path):
    settings.SECOND_FACTOR = "optional"
    settings.MEDIA_ROOT = tmp_path / "media"
    cache.clear()


def code(secret: str, steps: int = 0) -> str:
    """RFC 6238 with SHA-1, 30 seconds, 6 digits."""
    counter = int(time.time()) // 30 + steps
    digest = hmac.new(base64.b32decode(secret), struct.pack(">Q", counter), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4]) & 0x7FFFFFFF) % 10**6:06d}"


def test_the_codes_of_this_test_are_those_of_the_standard(monkeypatch):
    """RFC 6238, appendix B: T = 59 s gives 94287082, of which these are the last six digits."""
    monkeypatch.setattr(time, "time", lambda: 59.0)
    assert code(base64.b32encode(b"12345678901234567890").decode()) == "287082"


def sign_in(client, user, password=PASSWORD):
    return client.post(reverse("login"), {"username": user.username, "password": password})


def set_up(client) -> tuple[str, list[str]]:
    """Key and recovery codes of the user who is signed in."""
    page = client.get(reverse("mfa_activate_totp")).content.decode()
    secret = re.search(r'class="mono wrap-any">([A-Z2-7]+)<', page).group(1)
    done = client.post(reverse("mfa_activate_totp"), {"code": code(secret)}, follow=True)
    return secret, re.findall(r"<li>(\d{8})</li>", done.content.decode())


@pytest.fixture
def protected():
    """A user with a second factor, the key and the recovery codes."""
    user, client = UserFactory(username="alice"), Client()
    sign_in(client, user)
    secret, codes = set_up(client)
    cache.clear()
    return user, secret, codes


def signed_in(client) -> bool:
    return client.get(reverse("profile")).status_code == 200


def test_where_it_is_switched_off_nobody_sees_it(client, settings):
    settings.SECOND_FACTOR = "off"
    client.force_login(UserFactory())
    assert client.get(reverse("mfa_activate_totp")).status_code == 404
    assert "Second factor" not in client.get(reverse("profile")).content.decode()


def test_setting_it_up_gives_ten_recovery_codes(client, protected):
    _, secret, codes = protected
    assert len(set(codes)) == 10
    assert {one.type for one in Authenticator.objects.all()} == {"totp", "recovery_codes"}
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(data::text, ' ') FROM mfa_authenticator")
        assert secret not in cursor.fetchone()[0], "the key lies encrypted in the database"
    assert AuditEvent.objects.filter(action="login.second_factor").count() == 2


def test_a_wrong_code_sets_nothing_up(client):
    user = UserFactory()
    sign_in(client, user)
    client.get(reverse("mfa_activate_totp"))
    assert client.post(reverse("mfa_activate_totp"), {"code": "000000"}).status_code == 200
    assert not Authenticator.objects.exists()


def test_the_password_alone_does_not_sign_in_the_code_does(client, protected):
    user, secret, _ = protected
    first = sign_in(client, user)
    assert first["Location"] == reverse("mfa_authenticate")
    assert not signed_in(client)
    wrong = client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert "Not signed in" in wrong.content.decode()
    assert not signed_in(client)
    assert client.post(reverse("mfa_authenticate"), {"code": code(secret)}).status_code == 302
    assert signed_in(client)


def test_a_code_works_once(client, protected):
    user, secret, _ = protected
    now = code(secret)
    for expected in (True, False):
        browser = Client()
        sign_in(browser, user)
        browser.post(reverse("mfa_authenticate"), {"code": now})
        assert signed_in(browser) is expected


def test_a_recovery_code_works_once(client, protected):
    user, _, codes = protected
    for expected in (True, False):
        browser = Client()
        sign_in(browser, user)
        browser.post(reverse("mfa_authenticate"), {"code": codes[3]})
        assert signed_in(browser) is expected


def test_codes_cannot_be_guessed(client, protected, settings):
    settings.SIGN_IN_FAILURES = 3
    user, secret, _ = protected
    sign_in(client, user)
    for _ in range(3):
        client.post(reverse("mfa_authenticate"), {"code": "000000"})
    locked = client.post(reverse("mfa_authenticate"), {"code": code(secret)})
    assert "Too many failed attempts" in locked.content.decode()
    assert not signed_in(client)
    reasons = [row.detail["reason"] for row in AuditEvent.objects.filter(action="login.failure", outcome="failed")]
    assert reasons == ["second_factor"] * 3


def test_a_code_without_the_password_leads_nowhere(client, protected):
    _, secret, _ = protected
    assert client.post(reverse("mfa_authenticate"), {"code": code(secret)})["Location"] == reverse("account_login")
    assert not signed_in(client)


def test_basic_with_the_password_is_refused_and_a_token_is_not(client, protected):
    user, _, _ = protected

    def basic(secret: str):
        words = base64.b64encode(f"{user.username}:{secret}".encode()).decode()
        return client.get("/dicomweb/studies", HTTP_AUTHORIZATION=f"Basic {words}")

    assert basic(PASSWORD).status_code == 401
    assert basic(issue_token(user=user)).status_code == 200


def test_switching_it_off_asks_again_who_it_is(client, protected):
    user, secret, _ = protected
    sign_in(client, user)
    client.post(reverse("mfa_authenticate"), {"code": code(secret)})
    session = client.session
    session["account_authentication_methods"] = [
        {**one, "at": one["at"] - 3600} for one in session["account_authentication_methods"]
    ]
    session.save()
    asked = client.post(reverse("mfa_deactivate_totp"))
    assert asked["Location"].startswith(reverse("account_reauthenticate"))
    assert Authenticator.objects.filter(type="totp").exists()
    client.post(f"{reverse('account_reauthenticate')}", {"password": PASSWORD})
    assert client.post(reverse("mfa_deactivate_totp")).status_code == 302
    assert not Authenticator.objects.exists()


def test_where_it_is_required_nothing_but_setting_it_up_is_possible(client, settings):
    settings.SECOND_FACTOR = "required"
    project = ProjectFactory()
    user = member(project, Role.MANAGER)
    series = make_ct_series(project, 1)
    study = f"/dicomweb/studies/{series.study.study_instance_uid}/metadata"
    sign_in(client, user)
    for route in ("home", "studies", "profile"):
        assert client.get(reverse(route))["Location"] == reverse("mfa_activate_totp")
    assert client.post(reverse("token_create"), {"name": "x", "expires": "30"}).status_code == 302
    assert client.get("/api/studies/").status_code == 403
    assert client.get(study).status_code == 403
    front = new_front(seconds=0.0)
    fast = FrontClient(front)
    fast.cookies = client.cookies
    assert fast.get(study).status_code == 403
    set_up(client)
    assert client.get(reverse("home")).status_code == 200
    assert fast.get(study).status_code == 200
    front.close()


def test_an_administrator_resets_the_factor_of_somebody_who_lost_it(client, protected):
    user, _, _ = protected
    client.force_login(UserFactory(is_superuser=True))
    assert "Reset second factor" in client.get(reverse("users")).content.decode()
    client.post(reverse("second_factor_reset", args=[user.pk]))
    assert AuditEvent.objects.filter(action="login.reset_second_factor", object_id=str(user.pk)).exists()
    browser = Client()
    sign_in(browser, user)
    assert signed_in(browser)
