from __future__ import annotations

import pytest

from portal.accounts.models import Role, User
from portal.accounts.services import create_project, set_role
from tests.worker import (  # noqa: F401
    _shared_worker,
    broker,
    celery_beat_process,
    celery_worker_process,
    no_other_worker,
    start_worker,
)


@pytest.fixture
def engineer(db) -> User:
    return User.objects.create_user("engineer", password="x")


@pytest.fixture
def project(engineer):
    project = create_project(slug="brain", name="Brain", by=None)
    set_role(project=project, user=engineer, role=Role.ENGINEER)
    return project
