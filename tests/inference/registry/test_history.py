"""Which version was in production on a day, by whose decision; and the way back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from inference.errors import StageError
from inference.registry import history, services
from inference.registry.models import Promotion, Stage
from portal.accounts.models import Role
from tests.factories import ProjectFactory, UserFactory, member
from tests.inference.models_factory import threshold_version

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


def day(number: int) -> datetime:
    return datetime(2026, 3, number, 12, tzinfo=UTC)


@pytest.fixture
def promoted(monkeypatch):
    """Version 1 from 2 March, version 2 from 10 March, nothing from 20 March on."""
    project = ProjectFactory(slug="lung")
    manager = member(project, Role.MANAGER, username="mia")
    first, second = threshold_version(project), threshold_version(project)

    def promote(version, to, number, reason):
        monkeypatch.setattr(timezone, "now", lambda: day(number))
        return services.promote(version, to, reason=reason, by=manager)

    promote(first, Stage.PRODUCTION, 2, "passed the test cohort")
    promote(second, Stage.PRODUCTION, 10, "better on small nodules")
    promote(second, Stage.RETIRED, 20, "scanner changed")
    monkeypatch.undo()
    return project, manager, first, second


def test_every_day_has_its_version_and_decision(promoted):
    project, _, first, second = promoted

    def on(number: int):
        found = history.in_production(project.models.all(), day(number))
        return [(service.version.pk, service.began.reason, service.began.by.username) for service in found]

    assert on(1) == []
    assert on(2) == on(9) == [(first.pk, "passed the test cohort", "mia")]
    assert on(10) == on(19) == [(second.pk, "better on small nodules", "mia")]
    assert on(20) == []


def test_page_and_api_tell_the_same(promoted):
    _project, manager, *_ = promoted
    client = Client()
    client.force_login(manager)
    answer = client.get(reverse("api_model-production"), {"on": "2026-03-09"}).json()
    assert [(row["model"], row["number"], row["by"], row["reason"]) for row in answer] == [
        ("threshold", 1, "mia", "passed the test cohort")
    ]
    page = client.get(reverse("production"), {"on": "2026-03-09"})
    assert [(row.version.model.name, row.version.number) for row in page.context["present"]] == [("threshold", 1)]
    assert client.get(reverse("api_model-production"), {"on": "yesterday"}).status_code == 400
    assert "is no date" in client.get(reverse("production"), {"on": "2026-02-31"}).content.decode()
    client.force_login(UserFactory())
    assert client.get(reverse("api_model-production"), {"on": "2026-03-09"}).json() == []
    assert client.get(reverse("production"), {"on": "2026-03-09"}).context["rows"] == []


def test_the_page_asks_as_often_for_many_versions_as_for_one(promoted, django_assert_max_num_queries):
    project, manager, *_ = promoted
    for number in range(3):
        services.promote(
            threshold_version(project, name=f"other-{number}"), Stage.PRODUCTION, reason="good", by=manager
        )
    client = Client()
    client.force_login(manager)
    client.get(reverse("production"))
    with django_assert_max_num_queries(14):
        client.get(reverse("production"))


def test_roll_back_puts_the_version_before_into_production_again(promoted):
    _project, manager, first, second = promoted
    services.promote(second, Stage.PRODUCTION, reason="scanner is back", by=manager)
    with pytest.raises(StageError, match="needs a reason"):
        history.roll_back(first.model, reason=" ", by=manager)
    back = history.roll_back(first.model, reason="misses nodules", by=manager)
    assert back == first
    second.refresh_from_db()
    assert (back.stage, second.stage) == (Stage.PRODUCTION, Stage.VALIDATED)
    assert Promotion.objects.filter(version=first).order_by("-id")[0].reason == "Rolled back: misses nodules"
    client = Client()
    client.force_login(manager)
    assert "Roll back to version 2" in client.get(reverse("model", args=[first.model_id])).content.decode()
    client.post(reverse("roll_back", args=[first.model_id]), {"reason": "they were artefacts"})
    second.refresh_from_db()
    assert second.stage == Stage.PRODUCTION


def test_there_is_no_way_back_before_the_first():
    project = ProjectFactory()
    version = threshold_version(project)
    services.promote(version, Stage.PRODUCTION, reason="first", by=UserFactory())
    with pytest.raises(StageError, match="No other version"):
        history.roll_back(version.model, reason="x", by=UserFactory())
