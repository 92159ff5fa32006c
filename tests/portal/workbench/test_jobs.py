"""The list of jobs and the live page of one. Who may use them is asked in tests/test_permissions.py."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from inference.jobs import services
from inference.jobs.failures import Failure
from inference.jobs.models import Job
from portal.accounts.models import Role
from portal.runtime import liveness
from tests.factories import ProjectFactory
from tests.inference.jobs import sample_tasks
from tests.jobs import claimed

pytestmark = pytest.mark.django_db


def submit(project, title: str = "Mark", task=sample_tasks.mark) -> Job:
    return services.submit(task, project=project, title=title, parameters={}, by=None)


def running(project, title: str = "Mark") -> Job:
    return claimed(submit(project, title))


def live(client, address: str, etag: str = ""):
    headers = {"X-Live": "1"} | ({"If-None-Match": etag} if etag else {})
    return client.get(address, headers=headers)


def test_list_groups_jobs_and_says_progress_time_left_and_place(browser, project):
    going = running(project, "Train on brains")
    services.report_progress(going.pk, going.claim, 0.25, "epoch 5 of 20")
    submit(project, "First in line")
    submit(project, "Second in line")
    failed = running(project, "Broken")
    services.fail(failed.pk, failed.claim, Failure("JobError", "No foreground.", ""))
    engineer = browser(Role.ENGINEER)
    engineer.get("/jobs/")  # the first look loads the templates, and the time left is told as of now
    Job.objects.filter(pk=going.pk).update(started_at=timezone.now() - timedelta(minutes=10))
    page = engineer.get("/jobs/").content.decode()
    assert 'aria-valuenow="25"' in page
    assert "epoch 5 of 20" in page
    assert "about 30 min left" in page  # a quarter took 10 minutes
    assert page.index("First in line") < page.index("Second in line")
    assert 'place <span class="num">2</span> in queue train' in page
    assert "No foreground." in page
    assert page.count("Run again") == 1


def test_workers_tell_what_they_have_and_on_what_they_work(browser, project):
    gigabyte = 1 << 30
    card = {"name": "NVIDIA RTX A5000", "memory_used": gigabyte, "memory_total": 24 * gigabyte, "busy": 37}
    told = {"queues": ["train"], "concurrency": 1, "machine": "gpu-box", "cores": 16, "memory": 3 * gigabyte,
            "memory_free": 40 * gigabyte, "memory_total": 64 * gigabyte, "devices": [card]}  # fmt: skip
    liveness.give_sign("train@gpu-box", ["train"], told)
    claimed(submit(project, "Train on brains"), worker="train@gpu-box pid 4711")
    engineer = browser(Role.ENGINEER)
    page = engineer.get("/jobs/").content.decode()
    row = page.split("<h2>Workers</h2>")[1]
    for words in ("gpu-box", "NVIDIA RTX A5000", "24.0", "Train on brains", "40.0"):
        assert words in row
    assert "<h2>Workers</h2>" not in browser(Role.VIEWER).get("/jobs/").content.decode()

    # A job of a project that one does not see is no news.
    other = ProjectFactory()
    claimed(submit(other, "Secret study"), worker="train@gpu-box pid 4712")
    page = engineer.get("/jobs/").content.decode()
    assert "a job of another project" in page
    assert "Secret study" not in page
    liveness.withdraw("train@gpu-box", ["train"])


def test_list_of_another_project_is_not_shown(browser, project):
    submit(project, "Ours")
    submit(ProjectFactory(), "Theirs")
    page = browser(Role.VIEWER).get("/jobs/").content.decode()
    assert "Ours" in page
    assert "Theirs" not in page


def test_list_is_filtered_by_state_and_kind(browser, project):
    submit(project, "Waiting mark")
    submit(project, "Waiting sum", sample_tasks.add)
    running(project, "Going")
    client = browser(Role.ENGINEER)
    page = client.get("/jobs/?state=queued").content.decode()
    assert "Waiting mark" in page
    assert "Going" not in page
    page = client.get("/jobs/?state=queued&kind=add").content.decode()
    assert "Waiting sum" in page
    assert "Waiting mark" not in page
    assert "No such jobs" in client.get("/jobs/?state=failed").content.decode()


def test_empty_list_says_what_to_do(browser):
    assert 'href="/training/new/"' in browser(Role.ENGINEER).get("/jobs/").content.decode()
    assert 'href="/training/new/"' not in browser(Role.VIEWER).get("/jobs/").content.decode()


def test_list_costs_the_same_for_many_jobs(browser, project, django_assert_max_num_queries):
    client = browser(Role.ENGINEER)
    for number in range(12):
        submit(project, f"waits {number}")
        job = running(project, f"ran {number}")
        services.succeed(job.pk, job.claim, {})
    with django_assert_max_num_queries(20):
        client.get("/jobs/")


def test_page_of_a_running_job_is_live_and_mostly_not_modified(browser, project):
    job = running(project)
    client = browser(Role.ENGINEER)
    services.write_log(job.pk, job.claim, "loading <b>brains</b>")
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    assert "loading &lt;b&gt;brains&lt;/b&gt;" in page
    first = live(client, f"/jobs/{job.pk}/")
    assert first.status_code == 200
    again = live(client, f"/jobs/{job.pk}/", first["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    services.write_metric(job.pk, job.claim, "train_loss", 1, 0.75)
    services.write_metric(job.pk, job.claim, "val_dice/Hippocampus", 1, 0.5)
    services.report_progress(job.pk, job.claim, 0.5, "epoch 1 of 2")
    changed = live(client, f"/jobs/{job.pk}/", first["ETag"]).json()
    assert changed["ended"] is False
    assert 'aria-valuenow="50"' in changed["parts"]["progress"]
    loss, dice = changed["curves"]
    assert (loss["title"], loss["spec"]["data"][0]["x"], loss["spec"]["data"][0]["y"]) == ("Loss", [1], [0.75])
    assert dice["spec"]["data"][0]["name"] == "Hippocampus 0.50"


def test_log_is_sent_from_where_the_page_is(browser, project):
    job = running(project)
    client = browser(Role.ENGINEER)
    services.write_log(job.pk, job.claim, "one")
    after = job.log.latest("id").pk
    services.write_log(job.pk, job.claim, "two", "warning")
    lines = live(client, f"/jobs/{job.pk}/?log={after}").json()["log"]
    assert [(level, text) for _, _, level, text in lines] == [("warning", "two")]
    whole = client.get(f"/jobs/{job.pk}/log/")
    assert whole["Content-Type"].startswith("text/plain")
    assert [line.split(": ", 1)[1] for line in whole.getvalue().decode().splitlines()] == [
        "Attempt 1 started by w1",
        "one",
        "two",
    ]


def test_log_is_not_for_viewers(browser, project):
    job = running(project)
    services.write_log(job.pk, job.claim, "a secret of the engineers")
    client = browser(Role.VIEWER)
    assert "secret" not in client.get(f"/jobs/{job.pk}/").content.decode()
    assert live(client, f"/jobs/{job.pk}/").json()["log"] == []


def test_a_later_attempt_s_points_replace_those_of_the_first(browser, project):
    job = running(project)
    services.write_metric(job.pk, job.claim, "train_loss", 1, 0.9)
    services.write_metric(job.pk, job.claim, "train_loss", 2, 0.8)
    services.release(job.pk, job.claim, "stopped")
    job = claimed(job, worker="w2")
    services.write_metric(job.pk, job.claim, "train_loss", 2, 0.7)
    services.write_metric(job.pk, job.claim, "train_loss", 3, float("nan"))
    [curve] = live(browser(Role.VIEWER), f"/jobs/{job.pk}/").json()["curves"]
    assert (curve["spec"]["data"][0]["x"], curve["spec"]["data"][0]["y"]) == ([1, 2], [0.9, 0.7])


def test_failed_job_says_cause_next_step_and_offers_to_run_again(browser, project):
    job = running(project)
    services.fail(job.pk, job.claim, Failure("JobError", "No foreground in any case.", "Choose another reference."))
    client = browser(Role.ENGINEER)
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    for words in ("No foreground in any case.", "Choose another reference.", "Run again"):
        assert words in page
    assert live(client, f"/jobs/{job.pk}/").json()["ended"] is True
    client.post(f"/jobs/{job.pk}/retry/")
    job.refresh_from_db()
    assert job.state == "queued"


def test_cancel_of_a_running_job_asks_first(browser, project):
    job = running(project)
    client = browser(Role.ENGINEER)
    assert "data-confirm=" in live(client, f"/jobs/{job.pk}/").json()["parts"]["actions"]
    assert client.post(f"/jobs/{job.pk}/cancel/").status_code == 302
    job.refresh_from_db()
    assert job.cancel_requested
    assert "Stopping" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_cancel_too_late_is_said_in_words(browser, project):
    job = running(project)
    services.succeed(job.pk, job.claim, {})
    page = browser(Role.ENGINEER).post(f"/jobs/{job.pk}/cancel/", follow=True).content.decode()
    assert "This job has ended already" in page


def test_cases_without_a_result_are_listed_with_their_cause(browser, project):
    job = running(project)
    case = {"name": "C-007", "state": "failed", "cause": "The study has no images.", "next_step": "Import them."}
    services.succeed(job.pk, job.claim, {"cases": [case, {"name": "C-008", "state": "stored", "cause": ""}]})
    page = browser(Role.VIEWER).get(f"/jobs/{job.pk}/").content.decode()
    assert "The study has no images." in page
    assert "C-007" in page
    assert "C-008" not in page


def test_priority_is_changed_on_the_page_and_moves_the_job(browser, project):
    submit(project, "First in line")
    job = submit(project, "Second in line")
    client = browser(Role.ENGINEER)
    assert client.post(f"/jobs/{job.pk}/priority/", {"priority": "urgent", "next": "jobs"}).status_code == 302
    page = client.get("/jobs/").content.decode()
    assert page.index("Second in line") < page.index("First in line")
    assert "queued with urgent priority" in page
    assert client.post(f"/jobs/{job.pk}/priority/", {"priority": "x"}).status_code == 400
    viewer = browser(Role.VIEWER).get("/jobs/").content.decode()
    assert "urgent priority" in viewer
    assert 'name="priority"' not in viewer


def test_queues_tell_what_waits_how_long_and_which_has_no_worker(browser, project):
    going = running(project, "Going")
    waiting = submit(project, "Waits")
    submit(ProjectFactory(), "Theirs")
    Job.objects.filter(pk=waiting.pk).update(queued_at=timezone.now() - timedelta(minutes=7))
    page = browser(Role.ENGINEER).get("/jobs/").content.decode()
    row = page.split("<b>train</b>")[1].split("</tr>")[0]
    assert 'data-label="Waiting">2<' in row  # of all projects
    assert 'data-label="Running">1<' in row
    assert "7:00 min" in row or "7:01 min" in row
    assert "None: jobs stand still" in row
    assert "<h2>Queues</h2>" not in browser(Role.VIEWER).get("/jobs/").content.decode()
    assert going.state == "running"


def test_time_left_is_said_not_to_be_known_where_the_progress_does_not_tell(browser, project):
    job = running(project)
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(minutes=1))
    client = browser(Role.ENGINEER)
    assert "time left not known yet" in client.get("/jobs/").content.decode()
    assert "time left not known yet" in client.get(f"/jobs/{job.pk}/").content.decode()
