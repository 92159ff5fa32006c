"""What a finished training says about itself: on its job's page, in the list of runs, on the page of its version."""

from __future__ import annotations

import re

import pytest

from inference.jobs.models import JobMetric
from portal.accounts.models import Role
from portal.workbench.curves import curves
from portal.workbench.validation_figures import of
from tests.portal.rows import cohort_row, entry, study_row
from tests.portal.workbench.test_comparison import run_of

pytestmark = pytest.mark.django_db
CLASSIFIED = {
    "strategy": "frozen", "epochs": 1, "steps": 1, "seconds": 6.0, "training_cases": 36, "training_patients": 36,
    "validation_cases": 12,
    "validation": {
        "classes": {"covid": {"auc": entry(0.91, 0.72, 1.0, 12, "DeLong")}},
        "accuracy": entry(0.75, 0.5, 0.92, 12),
    },
}  # fmt: skip


@pytest.fixture
def reference(project):
    return cohort_row(project, [study_row(project) for _ in range(4)])[1]


def words(client, address: str) -> str:
    """The text of a page, without markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", client.get(address).content.decode()).split())


def frozen(reference):
    run = run_of(reference, number=1, losses=[1.0])
    run.config = {**run.config, "task": "classification"}
    run.config["training"]["strategy"] = "frozen"
    run.save()
    run.version.manifest["training"] = CLASSIFIED
    run.version.save()
    run.version.model.task = "classification"
    run.version.model.save()
    return run


def test_a_trained_job_shows_its_validation_figures_with_interval_and_n(reference, browser, media):
    run = run_of(reference, number=1, losses=[1.0, 0.5])
    page = words(browser(Role.ENGINEER), f"/jobs/{run.job_id}/")
    assert "Dice, Liver 0.80 [0.70–0.90] n=5" in page
    assert "BCa bootstrap" in page


def test_figures_come_in_the_order_of_the_labels(reference):
    manifest = {
        "labels": [{"number": 1, "name": "Left kidney"}, {"number": 2, "name": "Aorta"}],
        "training": {"validation_dice": {name: entry(0.8, 0.7, 0.9, 5) for name in ("Aorta", "Left kidney")}},
    }
    assert list(of(manifest)) == ["Dice, Left kidney", "Dice, Aorta"]


def test_a_frozen_classifier_tells_auc_and_no_epochs_or_window(reference, browser, media):
    run = frozen(reference)
    client = browser(Role.ENGINEER)
    job, version = words(client, f"/jobs/{run.job_id}/"), words(client, f"/models/versions/{run.version_id}/")
    for page in (job, version):
        assert "AUC, covid 0.91 [0.72–1.00] n=12" in page
        assert "Accuracy 0.75 [0.50–0.92] n=12" in page
        assert not re.search(r"\d epochs?\b", page)
        assert "Sliding window" not in page
    assert "one fit of the last layer" in job
    assert "one fit of the last layer" in version


def test_the_list_shows_figures_and_ticks_the_run_that_it_was_asked_for(reference, browser):
    one, two = (run_of(reference, number=number, losses=[1.0]) for number in (1, 2))
    page = browser(Role.VIEWER).get(f"/training/?run={one.pk}").content.decode()
    assert "0.80" in page
    assert "n=5" in page
    assert re.findall(r'value="(\d+)" aria-label="Compare[^>]* checked', page) == [str(one.pk)]
    assert page.index(one.name) < page.index(two.name)


def test_the_way_to_the_evaluation_knows_cohort_and_reference(reference, browser, media):
    run = run_of(reference, number=1, losses=[1.0])
    client = browser(Role.ENGINEER)
    address = (
        f"/evaluations/new/?version={run.version_id}&amp;cohort={reference.cohort_id}&amp;reference={reference.pk}"
    )
    for page in (f"/jobs/{run.job_id}/", f"/models/versions/{run.version_id}/"):
        assert address in client.get(page).content.decode()


def test_a_failed_training_leads_on_and_promises_no_other_end_of_the_same_settings(reference, browser, media):
    run = run_of(reference, number=1, losses=[1.0])
    (media / "training" / str(run.pk)).mkdir(parents=True)
    (media / "training" / str(run.pk) / "last.ckpt").touch()
    run.job.state, run.job.error_class, run.job.cause = "failed", "LossError", "The loss is not a number any more."
    run.job.save()
    page = words(browser(Role.ENGINEER), f"/jobs/{run.job_id}/")
    assert "The checkpoint of the last whole epoch is kept." in page
    assert "running the job again goes on" not in page
    assert "From here" in page
    assert "Train again with other settings" in page


def test_no_tick_lies_between_two_epochs_and_a_point_says_its_epoch(reference):
    few = curves(run_of(reference, number=1, losses=[1.0, 0.5]).job)[0].spec
    job = run_of(reference, number=2, losses=[1.0] * 30).job
    JobMetric.objects.create(job=job, attempt=1, name="val_dice/Liver", step=15, value=0.8)
    many, alone = (curve.spec for curve in curves(job)[:2])
    assert few["layout"]["xaxis"]["dtick"] == alone["layout"]["xaxis"]["dtick"] == 1
    assert "dtick" not in many["layout"]["xaxis"]
    assert "at epoch %{x}" in few["data"][0]["hovertemplate"]
