"""A cross-validation on the page of its job: figures with intervals, rounds that cannot be judged, the warning."""

from __future__ import annotations

import pytest

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
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "Class and source are confounded" in page
    assert "4 of 4 disc cases come from East" in page
    assert page.count("Not judged") == 2
    assert "0.50" in page
    assert page.index("Network: class") < page.index("Figures without East")
    assert "Calling every case" in page
    assert "not a medical device" in page
    client.force_login(member(ProjectFactory(), Role.MANAGER))
    assert client.get(f"/jobs/{job.pk}/").status_code == 404
