from __future__ import annotations

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from portal.accounts.authentication import user_of_token
from portal.accounts.models import ApiToken
from tests import factories

pytestmark = pytest.mark.django_db


def printed(*arguments, **options):
    out = io.StringIO()
    call_command("token", *arguments, stdout=out, **options)
    return out.getvalue().strip()


def test_the_printed_token_is_the_users():
    alice = factories.UserFactory(username="alice")
    secret = printed("alice", name="cli", days=3)
    assert user_of_token(secret) == alice
    token = ApiToken.objects.get()
    assert (token.name, secret in token.digest) == ("cli", False)
    assert abs(token.expires_at - timezone.now() - timedelta(days=3)) < timedelta(minutes=1)
    assert user_of_token(secret + "x") is None


def test_unknown_and_deactivated_users_get_none():
    factories.UserFactory(username="gone", is_active=False)
    for name in ("nobody", "gone"):
        with pytest.raises(CommandError, match=name):
            printed(name)


def test_a_token_may_be_limited_in_what_and_where():
    alice = factories.UserFactory(username="alice")
    project = factories.ProjectFactory(slug="lung")
    with pytest.raises(CommandError, match="not a member"):
        printed("alice", project="lung")
    factories.MembershipFactory(project=project, user=alice)
    assert user_of_token(printed("alice", project="lung", scope="read")).only_project == project.pk
    assert ApiToken.objects.get().scope == "read"
    with pytest.raises(CommandError, match="liver"):
        printed("alice", project="liver")
