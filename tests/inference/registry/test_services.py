"""Versions and stages."""

from __future__ import annotations

import pytest

from inference.errors import BundleError, StageError
from inference.registry import services
from inference.registry.models import ModelVersion, Promotion, Stage
from portal.accounts.models import Role
from tests.factories import ProjectFactory, UserFactory, member
from tests.inference.models_factory import threshold_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("media")]


def test_versions_are_numbered_and_their_files_checked():
    project = ProjectFactory()
    first, second = threshold_version(project), threshold_version(project)
    assert (first.number, second.number) == (1, 2)
    assert first.bundle != second.bundle
    assert services.open_bundle(second).digest == second.digest
    (services.folder_of(first.bundle) / "manifest.json").write_text("{}")
    with pytest.raises(BundleError):
        services.open_bundle(first)


def test_one_version_is_in_production_and_the_history_says_who_and_why():
    project = ProjectFactory()
    boss = member(project, Role.MANAGER)
    first, second = threshold_version(project), threshold_version(project)
    services.promote(first, Stage.PRODUCTION, reason="passed the reader study", by=boss)
    services.promote(second, Stage.PRODUCTION, reason="better on the new scanner", by=boss)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.stage, second.stage) == (Stage.VALIDATED, Stage.PRODUCTION)
    history = list(Promotion.objects.filter(version__model=first.model).order_by("id"))
    assert [(p.version_id, p.from_stage, p.to_stage) for p in history] == [
        (first.pk, "candidate", "production"),
        (first.pk, "production", "validated"),
        (second.pk, "candidate", "production"),
    ]
    assert "better on the new scanner" in history[1].reason
    assert {p.by for p in history} == {boss}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("production", " ")], "needs a reason"),
        ([("retired", "old"), ("candidate", "again")], "cannot become candidate"),
        ([("gold", "why not")], "no stage 'gold'"),
    ],
)
def test_changes_of_stage_that_are_refused(steps, words):
    version = threshold_version(ProjectFactory())
    user = UserFactory()
    for to, reason in steps[:-1]:
        version = services.promote(version, to, reason=reason, by=user)
    before = Promotion.objects.count()
    with pytest.raises(StageError, match=words):
        services.promote(version, steps[-1][0], reason=steps[-1][1], by=user)
    assert Promotion.objects.count() == before


def test_a_version_is_found_by_id_or_name_and_number_within_what_the_user_sees():
    ours, theirs = ProjectFactory(slug="ours"), ProjectFactory(slug="theirs")
    alice = member(ours, Role.ENGINEER)
    mine, newer, other = threshold_version(ours), threshold_version(ours), threshold_version(theirs)
    assert services.find_version(str(mine.pk), user=alice) == mine
    assert services.find_version("threshold:1", user=alice) == mine
    assert services.find_version("threshold", user=alice) == newer
    with pytest.raises(StageError, match="no model version"):
        services.find_version(str(other.pk), user=alice)
    with pytest.raises(StageError, match="several projects: ours, theirs"):
        services.find_version("threshold:1")
    assert services.find_version("threshold:1", project=theirs) == other
    assert set(ModelVersion.objects.visible_to(alice)) == {mine, newer}
