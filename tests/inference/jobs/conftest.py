from __future__ import annotations

import pytest

from portal.accounts.models import Role, User
from portal.accounts.services import create_project, set_role


@pytest.fixture
def engineer(db) -> User:
    return User.objects.create_user("engineer", password="x")


@pytest.fixture
def project(engineer):
    project = create_project(slug="brain", name="Brain", by=None)
    set_role(project=project, user=engineer, role=Role.ENGINEER)
    return project
