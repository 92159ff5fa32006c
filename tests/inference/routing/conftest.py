from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference.registry.models import ModelVersion, Stage
from inference.routing import rules
from inference.routing.models import RoutingRule
from portal.accounts.models import Project
from tests.factories import ProjectFactory
from tests.portal.rows import version_row


@pytest.fixture(autouse=True)
def _settles_at_once(settings, tmp_path):
    settings.ROUTING_SETTLE_SECONDS = 0
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir(exist_ok=True)


@pytest.fixture
def project(db) -> Project:
    return ProjectFactory(slug="chest")


@pytest.fixture
def version(project) -> ModelVersion:
    """In production, for CT."""
    version = version_row(project, "nodules")
    version.manifest = {**version.manifest, "inputs": [{"name": "image", "modality": ["CT"]}]}
    version.stage = Stage.PRODUCTION
    version.save()
    return version


@pytest.fixture
def make_rule(project) -> Callable[..., RoutingRule]:
    def made(runs: ModelVersion, *, on: bool = True, **values: Any) -> RoutingRule:
        count = RoutingRule.objects.count()
        rule = rules.create(project, by=None, **{"name": f"Rule {count}", "version": runs, "conditions": {}} | values)
        return rules.switch(rule, True, by=None) if on else rule

    return made
