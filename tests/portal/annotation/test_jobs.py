"""Background work of campaigns, as a worker would do it."""

import pytest

from inference.jobs.models import Job
from inference.jobs.task import TASKS
from portal.annotation import consensus, overlaps, tasks
from portal.annotation.models import Overlap
from portal.celery import app
from studies.cohorts.models import ReferenceStandard
from tests.jobs import execute
from tests.portal.annotation.conftest import box, submit, task_of

X = slice(10, 20)


@pytest.fixture
def campaign(world):
    campaign = world.campaign()
    for reader in (world.alice, world.bob):
        submit(task_of(campaign, reader), "yes", label_map=box(X))
    return campaign


def test_workers_know_the_tasks():
    app.loader.import_default_modules()
    assert {tasks.measure_overlaps.name, tasks.publish_consensus.name} <= set(TASKS)


@pytest.mark.django_db(transaction=True)
def test_overlaps_and_consensus_are_made_by_jobs(world, campaign):
    job = Job.objects.get(task=tasks.measure_overlaps.name)  # asked for when bob submitted
    execute(job, tasks.measure_overlaps.body)
    job.refresh_from_db()
    assert (job.state, job.result) == ("succeeded", {"pairs": 1})
    assert Overlap.objects.get().dice == 1.0
    assert overlaps.request_measurement(campaign, by=None) is None

    job = consensus.request(campaign, by=world.manager, name="Agreed")
    execute(job, tasks.publish_consensus.body)
    job.refresh_from_db()
    reference = ReferenceStandard.objects.get()
    assert job.state == "succeeded"
    assert job.result == {"reference": reference.pk, "name": "Agreed", "version": 1, "cases": 1, "left_out": 2}
    assert reference.created_by == world.manager
    # What the job shows to every member says nothing about who answered what.
    assert "yes" not in str(job.result)


@pytest.mark.django_db(transaction=True)
def test_a_consensus_that_has_become_impossible_fails_in_words(world, campaign):
    job = consensus.request(campaign, by=world.manager, name="Agreed")
    submit(task_of(campaign, world.bob), "no")
    execute(job, tasks.publish_consensus.body)
    job.refresh_from_db()
    assert job.state == "failed"
    assert job.cause == "No case has enough reads that agree."
    assert job.next_step
