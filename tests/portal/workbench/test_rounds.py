"""The page of a cross-validation: figures with intervals, tests on the same cases, rounds, the warning."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from inference.jobs.models import Job
from inference.training import class_cases, crossvalidation
from inference.training.config import check
from inference.training.models import CrossValidation
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.inference.class_factory import CLASSES, CONFIG, shape_cohort

pytestmark = pytest.mark.django_db


def test_figures_rounds_and_warning_stand_on_the_page(client, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 8, maker=lambda seed: ("East", "West")[seed % 2], folds=2, fractions={})
    config = check({**CONFIG, "cross_validation": {"schemes": ["folds", "sources"], "source": "manufacturer"}})
    job = Job.objects.create(
        project=project, task="inference.training.tasks.cross_validate", title="Cross-validate", state="succeeded"
    )
    made = CrossValidation.objects.create(
        project=project, name="shapes", config=config, reference=reference, cohort_digest=cohort.digest, job=job
    )
    entries = class_cases.classified(reference, CLASSES)
    rounds = crossvalidation.rounds(config, cohort, entries)
    right = {name: 0.9 if name == "disc" else 0.1 for name in CLASSES}  # every case is called a disc
    crossvalidation.finish(
        made,
        CLASSES,
        rounds,
        {("folds", "network"): {entry.case_id: right for entry in entries}},
        {"confounding": crossvalidation.confounding(config, cohort, entries, list(CLASSES)), "seconds": 1.0},
    )
    client.force_login(member(project, Role.VIEWER))
    assert f"/cross-validations/{made.pk}/" in client.get(f"/jobs/{job.pk}/").content.decode()
    address = f"/cross-validations/{made.pk}/"
    page = client.get(address).content.decode()
    assert "Class and source are confounded" in page
    assert "4 of 4 disc cases come from East" in page
    assert "every case of disc and of bar comes from a single source" in page
    assert page.count("Not judged") == 2
    assert "0.50" in page
    assert page.index("Network, by class") < page.index("Figures without East")
    assert "Calling every case" in page
    assert "Research use, not a medical device" in page
    table = client.get(f"{address}csv/").content.decode().splitlines()
    assert table[0] == "case,scheme,round,method,truth,called,p(disc),p(bar)"
    assert len(table) == 9
    assert all(row.split(",")[5] == "disc" for row in table[1:])
    told = client.get(f"{address}json/").json()
    assert told["cohort_digest"] == cohort.digest
    assert told["schemes"]["folds"]["methods"]["network"]["n"] == 8
    client.force_login(member(ProjectFactory(), Role.MANAGER))
    assert client.get(address).status_code == 404
    assert client.get(f"{address}csv/").status_code == 404


def test_methods_are_compared_on_the_same_cases_with_curves_and_single_rounds(client, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 8, folds=2, fractions={})
    made = CrossValidation.objects.create(
        project=project, name="shapes", config=check(CONFIG), reference=reference, cohort_digest=cohort.digest
    )
    entries = class_cases.classified(reference, CLASSES)
    sure = {e.case_id: {name: 0.9 if name == e.values["class"] else 0.1 for name in CLASSES} for e in entries}
    wrong = {pk: dict(zip(CLASSES, reversed(list(row.values())), strict=True)) for pk, row in sure.items()}
    crossvalidation.finish(
        made,
        CLASSES,
        crossvalidation.rounds(made.config, cohort, entries),
        {("folds", "network"): sure, ("folds", "svm"): wrong},
        {"confounding": {}, "seconds": 1.0},
    )
    client.force_login(member(project, Role.VIEWER))
    page = client.get(f"/cross-validations/{made.pk}/").content.decode()
    assert "Network against traditional methods, on the same cases" in page
    assert "0.008" in page  # McNemar, eight cases that only the network called right: 2 · 0.5^8
    assert "Each round by itself" in page
    assert page.count('data-chart="roc') == 1
    assert "AUC 1.00" in page


def test_an_unfinished_one_shows_its_rounds_and_asks_again(client, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 8, folds=2, fractions={})
    job = Job.objects.create(
        project=project,
        task="inference.training.tasks.cross_validate",
        title="Rounds",
        state="running",
        started_at=timezone.now(),
        lease_until=timezone.now() + timedelta(minutes=1),
        claim=uuid4(),
    )
    made = CrossValidation.objects.create(
        project=project, name="shapes", config=check(CONFIG), reference=reference, cohort_digest=cohort.digest, job=job
    )
    crossvalidation.note_round(made, "folds", "fold 2")
    client.force_login(member(project, Role.VIEWER))
    page = client.get(f"/cross-validations/{made.pk}/").content.decode()
    assert "Trained" in page
    assert page.index("fold 1") < page.index("Trained") < page.index("fold 2")
    assert 'hx-trigger="every 3s"' in page
    assert client.get(f"/cross-validations/{made.pk}/csv/").status_code == 404
    Job.objects.update(state="failed", finished_at=timezone.now(), lease_until=None, claim=None)
    ended = client.get(f"/cross-validations/{made.pk}/", headers={"HX-Request": "true"})
    assert ended["HX-Refresh"] == "true"
