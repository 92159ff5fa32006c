"""Jobs through a real worker, Valkey and PostgreSQL."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from inference.jobs import services
from inference.jobs.models import Job, JobLogLine
from inference.jobs.waiting import wait
from studies.models import Patient
from tests.inference.jobs import sample_tasks

pytestmark = pytest.mark.django_db(transaction=True)


def submit(task, project, **parameters) -> Job:
    return services.submit(task, project=project, title=f"Test {task.name}", parameters=parameters, by=None)


def ended(job: Job, seconds: float = 90) -> Job:
    deadline = time.monotonic() + seconds
    while not job.ended:
        assert time.monotonic() < deadline, f"job still {job.state} after {seconds} s"
        time.sleep(0.05)
        job.refresh_from_db()
    return job


def until(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def running(job: Job) -> bool:
    job.refresh_from_db()
    return job.state == Job.State.RUNNING and job.progress > 0


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_success_keeps_result_log_and_metrics(celery_worker_process, project):
    job = ended(submit(sample_tasks.add, project, numbers=[19, 23], losses=[0.9, 0.4]))
    assert (job.state, job.result, job.progress, job.attempt) == ("succeeded", {"sum": 42}, 1.0, 1)
    assert job.claim is None
    assert job.lease_until is None
    assert job.started_at <= job.finished_at
    assert [line.text for line in job.log.filter(level="info")] == ["adding 19 and 23"]
    assert list(job.metrics.values_list("name", "step", "value")) == [("train_loss", 0, 0.9), ("train_loss", 1, 0.4)]


def test_progress_is_seen_while_it_runs(celery_worker_process, project, tmp_path):
    job = submit(sample_tasks.mark, project, file=str(tmp_path / "marks"), seconds=2)
    seen = []
    wait(job, lambda job: seen.append((job.state, job.progress)), interval=0.1)
    fractions = [fraction for state, fraction in seen if state == "running"]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    assert job.state == "succeeded"


def test_failure_in_words(celery_worker_process, project):
    job = ended(submit(sample_tasks.refuse, project))
    assert job.state == "failed"
    assert job.error_class == "JobError"
    assert job.cause == "The training set has no foreground."
    assert job.next_step == "Choose another reference standard."
    assert job.attempt == 1


def test_unforeseen_error_keeps_the_traceback_without_identity(celery_worker_process, project):
    Patient.objects.create(project=project, patient_id="MRN-778812", patient_name="Curie^Marie")
    job = ended(submit(sample_tasks.crash, project, message="cannot resample MRN-778812 of Curie^Marie (Curie Marie)"))
    assert job.state == "failed"
    assert job.error_class == "ValueError"
    assert "cannot resample [patient] of [patient] ([patient])" in job.cause
    assert job.next_step
    log = "\n".join(JobLogLine.objects.filter(job=job).values_list("text", flat=True))
    assert "raise ValueError(run.parameters" in log
    for identity in ("MRN-778812", "Curie"):
        assert identity not in log
        assert identity not in job.cause


def test_out_of_memory_is_named(celery_worker_process, project):
    job = ended(submit(sample_tasks.exhaust, project))
    assert (job.state, job.error_class, job.cause) == ("failed", "MemoryError", "The machine ran out of memory.")


def test_time_limit_is_named(celery_worker_process, project):
    job = ended(submit(sample_tasks.linger, project))
    assert (job.state, job.error_class) == ("failed", "TimeLimitReached")
    assert "time limit of 1 s" in job.cause


def test_cancel_of_a_running_job(celery_worker_process, project, engineer, tmp_path):
    file = tmp_path / "marks"
    job = submit(sample_tasks.mark, project, file=str(file), seconds=60)
    until(lambda: running(job))
    assert services.cancel(job, by=engineer).cancel_requested
    asked = time.monotonic()
    ended(job)
    assert job.state == "cancelled"
    assert time.monotonic() - asked < 20
    assert [line.split()[0] for line in lines(file)] == ["start"]
    assert "engineer asked to cancel" in [line.text for line in job.log.all()]


def test_cancelled_job_runs_again(celery_worker_process, project, engineer, tmp_path):
    job = submit(sample_tasks.mark, project, file=str(tmp_path / "marks"), seconds=60)
    until(lambda: running(job))
    services.cancel(job, by=engineer)
    ended(job)
    job.parameters["seconds"] = 0
    job.save(update_fields=["parameters"])
    job = ended(services.retry(job, by=engineer))
    assert (job.state, job.result, job.attempts_left) == ("succeeded", {"attempt": 2}, 1)


def test_duplicate_delivery_does_nothing(celery_worker_process, project, tmp_path):
    file = tmp_path / "marks"
    job = submit(sample_tasks.mark, project, file=str(file), seconds=1.5)
    for _ in range(3):
        services.enqueue(job)
    until(lambda: running(job))
    services.enqueue(job)
    ended(job)
    services.enqueue(job)
    last = ended(submit(sample_tasks.mark, project, file=str(tmp_path / "other"), seconds=0))
    assert last.state == "succeeded"  # the queue is worked off by now
    until(lambda: services.messages_in("train") == 0)
    assert [line.split()[0] for line in lines(file)] == ["start", "end"]
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("succeeded", 1)


def test_heartbeat_outlives_a_long_call(celery_worker_process, project):
    """The lease of the test's worker is 3 s; the call takes 5 and never looks up."""
    job = submit(sample_tasks.block, project, seconds=5)
    until(lambda: Job.objects.get(pk=job.pk).state == "running")
    while not job.ended:
        assert services.reap()["requeued"] == 0
        time.sleep(0.3)
        job.refresh_from_db()
    assert (job.state, job.attempt) == ("succeeded", 1)


def test_broken_database_connection_is_another_attempt(celery_worker_process, project):
    job = submit(sample_tasks.lose_database, project)
    ended(job)
    assert (job.state, job.result) == ("succeeded", {"attempt": 2})


def test_two_workers_race_for_the_same_jobs(start_worker, celery_worker_process, project, tmp_path):
    second = start_worker(concurrency=2)
    files = [tmp_path / str(number) for number in range(8)]
    jobs = [submit(sample_tasks.mark, project, file=str(file), seconds=0.2) for file in files]
    for job in jobs:  # every job is delivered three times, to whichever worker is free
        services.enqueue(job)
        services.enqueue(job)
    for job in jobs:
        ended(job)
    second.stop()
    assert [job.state for job in jobs] == ["succeeded"] * 8
    assert all([line.split()[0] for line in lines(file)] == ["start", "end"] for file in files)


def test_job_submitted_while_the_broker_is_away_runs_later(broker, celery_worker_process, project):
    broker.stop()
    try:
        started = time.monotonic()
        job = submit(sample_tasks.add, project, numbers=[1, 2])
        assert time.monotonic() - started < 10
        job.refresh_from_db()
        assert (job.state, job.enqueued_at) == ("queued", None)
    finally:
        broker.start()
    Job.objects.filter(pk=job.pk).update(created_at="2020-01-01T00:00:00Z")
    assert services.reap()["sent"] == 1
    assert ended(job).result == {"sum": 3}


def test_killed_worker_s_job_runs_again_and_ends_once(
    no_other_worker, start_worker, celery_beat_process, project, tmp_path
):
    """kill -9 in mid-job; beat's reaper hands the job to another worker."""
    file = tmp_path / "marks"
    victim = start_worker(queues="train")
    job = submit(sample_tasks.mark, project, file=str(file), seconds=2)
    until(lambda: running(job))
    victim.kill()
    killed = time.monotonic()
    heir = start_worker(queues="train,default")
    try:
        ended(job)
        assert time.monotonic() - killed < 60
        assert (job.state, job.attempt, job.result) == ("succeeded", 2, {"attempt": 2})
        assert [line.split()[:2] for line in lines(file)] == [
            ["start", "attempt=1"],
            ["start", "attempt=2"],
            ["end", "attempt=2"],
        ]
        assert "gave no sign of life" in job.log.filter(text__contains="sign of life").get().text
    finally:
        heir.stop()


def test_worker_killed_at_every_attempt_fails_with_words(no_other_worker, start_worker, project, tmp_path):
    victim = start_worker(queues="train")
    job = submit(sample_tasks.mark_once, project, file=str(tmp_path / "marks"), seconds=60)
    until(lambda: running(job))
    victim.kill()
    Job.objects.filter(pk=job.pk).update(lease_until="2020-01-01T00:00:00Z")
    assert services.reap()["failed"] == 1
    job.refresh_from_db()
    assert (job.state, job.error_class) == ("failed", "WorkerDied")
    assert job.cause.startswith("The worker died during the job, once.")
    assert job.next_step


def test_messages_lost_with_the_broker_are_sent_again(no_other_worker, broker, start_worker, project):
    """The broker comes back empty, as one without persistence does."""
    jobs = [submit(sample_tasks.add, project, numbers=[n, n]) for n in range(3)]
    assert services.messages_in("default") == 3
    with redis.Redis(port=broker.port) as client:
        client.flushall()
    assert services.messages_in("default") == 0
    Job.objects.update(enqueued_at="2020-01-01T00:00:00Z")
    assert services.reap()["sent"] == 3
    assert services.reap()["sent"] == 0  # they wait in the queue now
    worker = start_worker(queues="default")
    try:
        assert [ended(job).result for job in jobs] == [{"sum": 0}, {"sum": 2}, {"sum": 4}]
    finally:
        worker.stop()
