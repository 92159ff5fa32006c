"""States, claims and leases without a worker: what a worker, the reaper and people may do to a job row."""

from __future__ import annotations

import threading

import pytest
from celery.signals import before_task_publish
from django.db import IntegrityError, connection, transaction

from inference.jobs import services
from inference.jobs.errors import IllegalTransition, LeaseLost
from inference.jobs.failures import Failure
from inference.jobs.models import Job
from inference.jobs.task import job_task
from tests.inference.jobs import sample_tasks
from tests.jobs import claim, claimed, execute

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)  # what threads or the broker have to see

PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def queued(project) -> Job:
    return services.submit(sample_tasks.mark, project=project, title="Mark", parameters={}, by=None)


@committed
def test_submit_writes_a_row_and_sends_it_on_commit(project, engineer, broker, no_other_worker):
    before = services.messages_in("train")
    with transaction.atomic():
        job = services.submit(sample_tasks.mark, project=project, title="T", parameters={"a": 1}, by=engineer)
        assert services.messages_in("train") == before
    job.refresh_from_db()
    assert services.messages_in("train") == before + 1
    assert (job.state, job.queue, job.max_attempts, job.created_by) == ("queued", "train", 2, engineer)
    assert job.enqueued_at is not None


@committed
def test_whoever_gets_the_message_finds_the_job_free(project, broker, no_other_worker):
    """An idle worker claims while the message is still being handed over; nothing may hold the row then."""
    claimed = []

    def claim_elsewhere(**_) -> None:
        def ask() -> None:
            claimed.append(services.claim("train", worker="w", tasks=[sample_tasks.mark.name]))
            connection.close()

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    before_task_publish.connect(claim_elsewhere)
    try:
        job = services.submit(sample_tasks.mark, project=project, title="T", parameters={}, by=None)
    finally:
        before_task_publish.disconnect(claim_elsewhere)
    assert [found.pk for found in claimed] == [job.pk]
    job.refresh_from_db()
    assert job.state == "running"
    assert job.enqueued_at is not None  # written before the message went out


@committed
def test_rolled_back_submit_leaves_nothing(project, broker, no_other_worker):
    before = services.messages_in("train")
    with transaction.atomic():
        services.submit(sample_tasks.mark, project=project, title="T", parameters={}, by=None)
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert services.messages_in("train") == before


@committed
def test_a_job_is_claimed_once(queued):
    """Eight threads on eight connections ask for the same row."""
    gate, won = threading.Barrier(8), []

    def ask(number: int) -> None:
        gate.wait()
        if services.claim("train", worker=str(number), tasks=[queued.task]):
            won.append(number)
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.worker) == ("running", 1, str(won[0]))


def test_an_attempt_that_lost_its_lease_writes_nothing(queued):
    first = claimed(queued)
    Job.objects.update(lease_until=PAST)
    assert services.reap()["requeued"] == 1
    second = claimed(queued)
    assert second.claim != first.claim
    assert services.renew(first.pk, first.claim) is None
    for write in (
        lambda: services.report_progress(first.pk, first.claim, 0.9, "late"),
        lambda: services.write_log(first.pk, first.claim, "late"),
        lambda: services.write_metric(first.pk, first.claim, "loss", 1, 0.5),
        lambda: services.succeed(first.pk, first.claim, {"from": "first"}),
        lambda: services.fail(first.pk, first.claim, Failure("X", "late", "")),
        lambda: services.acknowledge_cancel(first.pk, first.claim),
        lambda: services.release(first.pk, first.claim, "late"),
    ):
        with pytest.raises(LeaseLost):
            write()
    services.succeed(second.pk, second.claim, {"from": "second"})
    with pytest.raises(LeaseLost):
        services.succeed(second.pk, second.claim, {"from": "second, again"})
    queued.refresh_from_db()
    assert (queued.state, queued.result, queued.attempt) == ("succeeded", {"from": "second"}, 2)
    assert not queued.metrics.exists()
    assert not queued.log.filter(text="late").exists()


def test_renewed_lease_is_not_reaped(queued):
    job = claimed(queued)
    Job.objects.update(lease_until=PAST)
    assert services.renew(job.pk, job.claim) is False
    assert services.reap()["requeued"] == 0


def test_reaper_fails_a_job_without_attempts_left(queued):
    for attempt in (1, 2):
        assert claimed(queued).attempt == attempt
        Job.objects.update(lease_until=PAST)
        counts = services.reap()
    assert counts == {"requeued": 0, "failed": 1, "cancelled": 0, "sent": 0}
    queued.refresh_from_db()
    assert (queued.state, queued.error_class) == ("failed", "WorkerDied")
    assert queued.cause.startswith("The worker died during the job, 2 times.")


def test_reaper_ends_a_cancelled_job_of_a_dead_worker(queued, engineer):
    claimed(queued)
    services.cancel(queued, by=engineer)
    Job.objects.update(lease_until=PAST)
    assert services.reap()["cancelled"] == 1
    queued.refresh_from_db()
    assert queued.state == "cancelled"


def test_queued_job_is_cancelled_at_once_and_never_runs(queued, engineer):
    job = services.cancel(queued, by=engineer)
    assert job.state == "cancelled"
    assert job.finished_at is not None
    assert claim(job) is None


def test_retry_gives_as_many_attempts_as_at_first(queued, engineer):
    job = claimed(queued)
    services.fail(job.pk, job.claim, Failure("ValueError", "broken", "mend it", "Traceback …"))
    job.refresh_from_db()
    assert job.is_retryable
    assert job.log.filter(level="error").count() == 2
    job = services.retry(job, by=engineer)
    assert (job.state, job.cause, job.attempt, job.attempts_left) == ("queued", "", 1, 2)
    for _ in range(2):
        claimed(job)
        Job.objects.update(lease_until=PAST)
        services.reap()
    job.refresh_from_db()
    assert (job.state, job.attempt) == ("failed", 3)


@pytest.mark.parametrize("verb", [services.cancel, services.retry])
def test_an_ended_job_stays(queued, engineer, verb):
    job = claimed(queued)
    services.succeed(job.pk, job.claim, {"n": 1})
    with pytest.raises(IllegalTransition):
        verb(job, by=engineer)
    job.refresh_from_db()
    assert (job.state, job.result) == ("succeeded", {"n": 1})


def test_running_job_cannot_be_retried(queued, engineer):
    claimed(queued)
    with pytest.raises(IllegalTransition):
        services.retry(queued, by=engineer)


def test_every_state_has_its_row_in_the_table_and_every_one_is_reachable():
    assert set(services.TRANSITIONS) == set(Job.State)
    reachable = set().union(*services.TRANSITIONS.values())
    assert reachable == set(Job.State)
    assert services.TRANSITIONS[Job.State.SUCCEEDED] == frozenset()


def test_the_database_refuses_a_running_job_without_lease(queued):
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=queued.pk).update(state="running")
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=queued.pk).update(state="lost")


@committed
def test_outcome_and_end_are_one_transaction(project, broker, queued):
    """A body that breaks inside `owned()` leaves neither its rows nor a result."""

    def body(run):
        with run.owned():
            project.description = "written by the job"
            project.save()
            run.finish({"ok": True})
            raise OSError("disk gone before the commit")

    execute(queued, body)
    queued.refresh_from_db()
    project.refresh_from_db()
    assert (queued.state, queued.result, project.description) == ("failed", {}, "")
    assert queued.error_class == "OSError"


@committed
def test_finish_inside_owned_ends_the_job(project, broker, queued):
    def body(run):
        with run.owned():
            project.description = "written by the job"
            project.save()
            run.finish({"ok": True})
        return {"ignored": True}

    execute(queued, body)
    queued.refresh_from_db()
    project.refresh_from_db()
    assert (queued.state, queued.result, project.description) == ("succeeded", {"ok": True}, "written by the job")


@committed
def test_result_that_is_no_json_fails_in_words(queued):
    execute(queued, lambda run: {"array": object()})
    queued.refresh_from_db()
    assert (queued.state, queued.error_class) == ("failed", "TypeError")


@committed
def test_stopped_worker_gives_its_job_back(queued):
    def body(run):
        raise SystemExit

    with pytest.raises(SystemExit):
        execute(queued, body)
    queued.refresh_from_db()
    assert (queued.state, queued.attempt, queued.attempts_left) == ("queued", 1, 1)


def test_place_in_the_queue(queued, project):
    second = services.submit(sample_tasks.mark, project=project, title="2", parameters={}, by=None)
    services.submit(sample_tasks.add, project=project, title="other queue", parameters={}, by=None)
    assert (services.position(queued), services.position(second)) == (1, 2)


def test_unknown_queue_is_refused_where_the_task_is_declared():
    with pytest.raises(ValueError, match="no queue 'gpu'"):
        job_task(queue="gpu")
    with pytest.raises(ValueError, match="at least one attempt"):
        job_task(queue="io", max_attempts=0)
