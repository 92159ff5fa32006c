"""Which job is next. The truth of every test is constructed: who submitted what, when, and what ran before."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from inference.jobs import order, services
from inference.jobs.models import Job
from tests.factories import ProjectFactory
from tests.inference.jobs import sample_tasks
from tests.jobs import claimed

pytestmark = pytest.mark.django_db

LOW, NORMAL, URGENT = Job.Priority
HOUR = 3600  # JOB_AGEING_SECONDS


def submit(project, priority=NORMAL, task=sample_tasks.mark, *, waited: float = 0, title: str = "T") -> Job:
    """A job that has waited for `waited` seconds."""
    job = services.submit(task, project=project, title=title, parameters={}, by=None, priority=priority)
    Job.objects.filter(pk=job.pk).update(queued_at=timezone.now() - timedelta(seconds=waited))
    return job


def take() -> Job | None:
    return services.claim("train", worker="w1", tasks=[sample_tasks.mark.name, sample_tasks.mark_once.name])


def work_off() -> list[int]:
    """One worker takes the queued jobs one after the other; their keys in that order."""
    done = []
    while job := take():
        services.succeed(job.pk, job.claim, {})
        done.append(job.pk)
    return done


def ran(project, *, ago: float, priority=NORMAL) -> None:
    """A job of the project began and ended `ago` seconds before now."""
    job = claimed(submit(project, priority))
    services.succeed(job.pk, job.claim, {})
    then = timezone.now() - timedelta(seconds=ago)
    Job.objects.filter(pk=job.pk).update(priority=priority, started_at=then, finished_at=then)


def test_more_urgent_jobs_are_first_then_those_that_wait_longer(project):
    low, first, urgent, second = (submit(project, priority).pk for priority in (LOW, NORMAL, URGENT, NORMAL))
    assert work_off() == [urgent, first, second, low]


def test_a_hundred_jobs_of_one_project_delay_the_other_s_one_by_one_job_at_most(project):
    many = [submit(project).pk for _ in range(100)]
    assert take().pk == many[0]  # it runs when the other project comes
    one = submit(ProjectFactory()).pk
    assert services.position(Job.objects.get(pk=one)) == 1
    worked = work_off()
    assert worked.index(one) <= 1
    assert [job for job in worked if job != one] == many[1:]


def test_long_jobs_of_one_project_do_not_delay_the_other_s_one_either(project):
    """Each of the many takes hours, so they all have waited longer than the one; and the other project had its turn."""
    other = ProjectFactory()
    ran(other, ago=3 * HOUR)
    many = [submit(project, waited=10 * HOUR).pk for _ in range(5)]
    first = take()
    assert first.pk == many[0]
    one = submit(other, waited=HOUR / 2).pk
    Job.objects.filter(pk=first.pk).update(started_at=timezone.now() - timedelta(hours=2))
    services.succeed(first.pk, first.claim, {})  # after two hours
    assert take().pk == one


def test_projects_take_turns(project):
    a, b, c = project, ProjectFactory(), ProjectFactory()
    of = {submit(p).pk: name for p, name, count in ((a, "a", 4), (b, "b", 2), (c, "c", 1)) for _ in range(count)}
    assert "".join(of[job] for job in work_off()) == "abcabaa"


def test_a_project_with_a_running_job_lets_the_idle_one_go_first(project):
    other = ProjectFactory()
    ran(other, ago=10)  # served last, but idle now
    submit(project, title="runs")
    assert take().title == "runs"
    submit(project)
    one = submit(other).pk
    assert take().pk == one


@pytest.mark.parametrize(("hours", "first"), [(0.9, "normal"), (1.1, "low"), (2.1, "low")])
def test_a_waiting_job_gains_a_step_every_hour(project, hours, first):
    """A low job of one project, normal ones of another that keep coming; at equal level the idle project goes first."""
    other = ProjectFactory()
    submit(other, LOW, waited=hours * HOUR, title="low")
    ran(project, ago=5)
    submit(project, NORMAL, title="normal")
    assert take().title == first


def test_nothing_starves_behind_urgent_jobs_that_keep_coming(project):
    """One worker, an urgent job every ten minutes that takes ten minutes: the low one still runs within four hours."""
    low = submit(project, LOW)
    before = 0
    while True:
        before += 1
        assert before < 25
        submit(project, URGENT)
        Job.objects.filter(state="queued").update(queued_at=F("queued_at") - timedelta(minutes=10))
        Job.objects.update(finished_at=F("finished_at") - timedelta(minutes=10))
        job = take()
        services.succeed(job.pk, job.claim, {})
        if job.pk == low.pk:
            break
    assert before > 12  # not before two hours: urgent means something


def test_a_backlog_of_old_jobs_delays_an_urgent_one_by_one_job_at_most(project):
    for _ in range(5):
        submit(project, LOW, waited=20 * HOUR)
    urgent = submit(project, URGENT).pk
    assert work_off().index(urgent) <= 1


def test_places_are_the_order_in_which_jobs_are_claimed(project):
    """Three projects, three priorities, random ages and histories: the simulated order is that of the claims."""
    dice = random.Random(7)
    projects = [project, ProjectFactory(), ProjectFactory()]
    for p in projects[:2]:
        ran(p, ago=dice.uniform(10, 5000))
    for _ in range(40):
        submit(dice.choice(projects), dice.choice([LOW, NORMAL, URGENT]), waited=dice.uniform(0, 4 * HOUR))
    told = order.places("train")
    taken = []
    while job := take():
        taken.append(job.pk)
    assert [told[pk] for pk in taken] == list(range(1, 41))


def test_a_lost_attempt_keeps_its_place_and_a_retry_goes_to_the_end(project, engineer):
    first, second = submit(project, waited=60), submit(project, waited=30)
    job = take()
    services.release(job.pk, job.claim, "The worker was stopped")
    assert (services.position(first), services.position(second)) == (1, 2)
    services.cancel(first, by=engineer)
    services.retry(first, by=engineer)
    assert (services.position(first), services.position(second)) == (2, 1)


def test_a_worker_takes_only_what_it_can_run(project):
    submit(project, URGENT, sample_tasks.mark_once)
    known = submit(project, LOW)
    assert services.claim("train", worker="w1", tasks=[sample_tasks.mark.name]).pk == known.pk
    assert services.claim("train", worker="w1", tasks=[sample_tasks.mark.name]) is None
    assert services.claim("infer", worker="w1", tasks=[sample_tasks.mark_once.name]) is None
