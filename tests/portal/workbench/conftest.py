from __future__ import annotations

from pathlib import Path

import pytest
from django.test import Client

from portal.accounts.models import Role
from tests.factories import ProjectFactory, member


@pytest.fixture
def media(settings, tmp_path: Path) -> Path:
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()
    return settings.MEDIA_ROOT


@pytest.fixture
def project(db):
    return ProjectFactory(slug="brain", name="Brain")


@pytest.fixture
def browser(project):
    """`browser(Role.ENGINEER)`: a client of a member with that role."""

    def sign_in(role: Role, of=None) -> Client:
        client = Client()
        client.force_login(member(of or project, role, username=f"{role}-{of or project}"))
        return client

    return sign_in
