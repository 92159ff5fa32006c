"""Signing in by OpenID Connect against a provider that speaks HTTP on the loopback address."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Membership, User
from tests.factories import UserFactory
from tests.portal.accounts.provider import CLIENT, SECRET, Provider

pytestmark = pytest.mark.django_db
BACK = "http://testserver/login/oidc/callback/"


@pytest.fixture
def provider(settings):
    provider = Provider(BACK)
    settings.OIDC_ISSUER, settings.OIDC_NAME = provider.issuer, "Hospital"
    app = {"provider_id": "oidc", "name": "Hospital", "client_id": CLIENT, "secret": SECRET}
    app["settings"] = {"server_url": provider.issuer}
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}
    yield provider
    provider.close()


def away(client: Client, **query: str) -> str:
    answer = client.get(reverse("openid_connect_login", args=["oidc"]), query)
    assert answer.status_code == 302, answer.content
    return answer["Location"]


def come_back(client: Client, **query: str):
    """From our page to the provider and back, as a browser follows."""
    there = httpx.get(away(client, **query))
    assert there.status_code == 302, there.text
    back = there.headers["Location"]
    assert back.startswith(BACK)
    return client.get(back.removeprefix("http://testserver"))


def test_without_a_provider_there_is_no_such_way(client):
    assert client.get(reverse("openid_connect_login", args=["oidc"])).status_code == 404
    assert client.get(reverse("openid_connect_callback", args=["oidc"])).status_code == 404
    assert "Hospital" not in client.get(reverse("login")).content.decode()


def test_a_new_person_gets_an_account_and_no_project(client, provider):
    assert "Sign in with Hospital" in client.get(reverse("login")).content.decode()
    answer = come_back(client, next="/studies/")
    assert (answer.status_code, answer["Location"]) == (302, "/studies/")
    rita = User.objects.get()
    assert (rita.username, rita.first_name, rita.last_name, rita.email) == (
        "rita", "Rita", "Reader", "rita@example.org",
    )  # fmt: skip
    assert not rita.is_superuser
    assert not rita.is_staff
    assert not rita.has_usable_password()
    assert not Membership.objects.exists()
    assert client.get(reverse("home")).status_code == 200
    actions = set(AuditEvent.objects.filter(user=rita).values_list("action", flat=True))
    assert {"user.create", "login.success"} <= actions


def test_the_same_person_comes_to_the_same_account_whatever_the_name(client, provider):
    come_back(client)
    provider.claims["preferred_username"] = "rita.married"
    again = Client()
    assert come_back(again).status_code == 302
    assert User.objects.get().username == "rita"


def test_the_request_carries_state_and_a_challenge(client, provider):
    query = parse_qs(urlsplit(away(client)).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["state"][0]
    assert query["redirect_uri"] == [BACK]


def test_an_answer_that_nobody_asked_for_is_refused(client, provider):
    """Somebody else's code, or a forged state, signs nobody in."""
    there = httpx.get(away(Client()))
    answer = client.get(there.headers["Location"].removeprefix("http://testserver"))
    assert answer.status_code == 302
    assert answer["Location"] == reverse("login")
    assert client.get(reverse("home")).status_code == 302
    assert not User.objects.exists()


def test_no_is_said_on_the_sign_in_page_and_in_the_trail(client, provider):
    provider.refuses = True
    assert come_back(client)["Location"] == reverse("login")
    assert "did not say who you are" in client.get(reverse("login")).content.decode()
    assert AuditEvent.objects.get(action="login.failure").object_kind == "oidc"


def test_an_identity_made_out_for_another_site_is_refused(client, provider):
    provider.audience = "another site"
    assert come_back(client)["Location"] == reverse("login")
    assert not User.objects.exists()


def test_an_account_of_the_same_name_is_not_taken_over(client, provider):
    local = UserFactory(username="rita", is_superuser=True)
    come_back(client)
    assert User.objects.exclude(pk=local.pk).get().username != "rita"
    assert client.get(reverse("users")).status_code == 403


def test_an_account_of_the_same_name_is_taken_over_where_the_site_says_so(client, provider, settings):
    settings.OIDC_MATCH_USERNAME = True
    local = UserFactory(username="rita")
    come_back(client)
    assert User.objects.get() == local
    assert client.get(reverse("profile")).status_code == 200
    assert AuditEvent.objects.get(action="user.connect").object_id == str(local.pk)


def test_a_deactivated_account_stays_out(client, provider):
    come_back(client)
    User.objects.update(is_active=False)
    again = Client()
    assert come_back(again)["Location"] == reverse("login")
    assert again.get(reverse("home")).status_code == 302


@pytest.mark.parametrize("process", ["connect", "redirect"])
def test_an_identity_cannot_be_slipped_to_somebody_who_is_signed_in(client, provider, process):
    client.force_login(UserFactory())
    assert client.get(reverse("openid_connect_login", args=["oidc"]), {"process": process}).status_code == 404


def test_nobody_is_sent_to_another_site_afterwards(client, provider):
    assert come_back(client, next="https://evil.example.org/")["Location"] == "/"


def test_a_provider_that_is_away_is_said_on_the_sign_in_page(client, provider):
    provider.close()
    answer = client.get(reverse("openid_connect_login", args=["oidc"]), follow=True)
    assert "cannot be reached" in answer.content.decode()
