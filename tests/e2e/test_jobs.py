"""A job in a real browser, run by a real worker: the page lives while it runs, and stops it when asked."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from inference.jobs import services
from inference.jobs.models import Job
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.inference.jobs import sample_tasks

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_job_page_follows_the_job_and_cancels_it(broker, sign_in, celery_worker_process, tmp_path):
    project = ProjectFactory(slug="brain", name="Brain")
    page = sign_in(member(project, Role.ENGINEER))
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    parameters = {"file": str(tmp_path / "marks"), "seconds": 600}
    job = services.submit(sample_tasks.mark, project=project, title="Train on brains", parameters=parameters, by=None)
    page.goto(f"/jobs/{job.pk}/")
    bar = page.get_by_role("progressbar")
    expect(page.locator("h1")).to_contain_text("Running")
    expect(page.locator("[data-part=progress]")).to_contain_text("step")
    step = bar.get_attribute("aria-label") or ""
    expect(bar).not_to_have_attribute("aria-label", step)  # it moves without a reload
    claim = Job.objects.get(pk=job.pk).claim
    assert claim is not None
    for epoch in range(1, 4):
        services.write_metric(job.pk, claim, "train_loss", epoch, 1 / epoch)
    services.write_log(job.pk, claim, "a warning from the loader", "warning")
    expect(page.locator("#log .w")).to_have_text("a warning from the loader")
    expect(page.get_by_role("img", name="Loss by epoch: training 0.333 at 3")).to_be_visible()
    expect(page.locator(".plot .scatterlayer path.js-line")).to_have_count(1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#confirm-text")).to_be_visible()
    page.get_by_role("button", name="Keep running").click()
    assert not Job.objects.get(pk=job.pk).cancel_requested
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel job").click()
    expect(page.locator("h1")).to_contain_text("Cancelled")
    expect(page.get_by_role("button", name="Run again")).to_be_visible()
    assert Job.objects.get(pk=job.pk).state == "cancelled"
    assert wrong == []


def test_list_follows_the_jobs(broker, sign_in, celery_worker_process, tmp_path):
    project = ProjectFactory(slug="brain", name="Brain")
    page = sign_in(member(project, Role.ENGINEER))
    page.goto("/jobs/")
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    parameters = {"file": str(tmp_path / "marks"), "seconds": 3}
    services.submit(sample_tasks.mark, project=project, title="Train on brains", parameters=parameters, by=None)
    listed = page.get_by_role("listitem").get_by_role("link", name="Train on brains")
    expect(listed.or_(page.get_by_role("cell").get_by_role("link", name="Train on brains")).first).to_be_visible()
    expect(page.locator("table .pill[data-s=ok]")).to_have_text("Succeeded")
