"""Retrieval and sending as jobs of a real worker, with dcmtk as the PACS."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from django.conf import settings

from inference.jobs.models import Job
from inference.jobs.services import cancel
from portal.pacs import transfers
from studies.dimse import nodes
from studies.models import Instance, Study
from tests.factories import UserFactory
from tests.studies.dimse.stalling import Relay, within
from tests.studies.dimse.test_remote import leftovers, uid_of

pytestmark = pytest.mark.django_db(transaction=True)
PIXEL_DATA = b"\xe0\x7f\x10\x00"


@pytest.fixture(autouse=True)
def _own_media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()


@pytest.fixture
def worker(start_worker, tmp_path):
    return start_worker(
        queues="io", include="portal.pacs.tasks", MEDIA_ROOT=str(settings.MEDIA_ROOT), DIMSE_TIMEOUT_SECONDS="2"
    )


def until(job: Job, reached) -> Job:
    deadline = time.monotonic() + 90
    while not reached(job):
        assert time.monotonic() < deadline, (job.state, job.progress_text, job.cause)
        time.sleep(0.1)
        job.refresh_from_db()
    return job


def ended(job: Job) -> Job:
    return until(job, lambda one: one.ended)


def test_there_and_back(worker, pacs_node, pacs, filled):
    user = UserFactory(is_superuser=True)
    job = ended(transfers.start_retrieval(pacs_node, [uid_of(filled[0]), "1.2.3"], by=user))
    assert job.state == Job.State.SUCCEEDED, job.cause
    assert (job.result["objects"], job.result["whole"], job.result["studies"]) == (4, 1, 2)
    assert job.result["cases"][1]["cause"].startswith("The remote sent nothing")
    study = Study.objects.get()
    assert study.number_of_instances == 4
    told = " ".join(line.text for line in job.log.all()) + job.title + str(job.result)
    assert "Rita" not in told
    assert "R1" not in told

    for path in pacs.files:
        path.unlink()
    back = ended(transfers.start_sending(pacs_node, [study], "all", by=user))
    assert back.state == Job.State.SUCCEEDED, back.cause
    assert back.result["objects"] == 4
    assert len(pacs.files) == 4


@pytest.mark.parametrize("cancels", [False, True])
def test_a_remote_that_stalls_ends_with_a_cause_and_can_be_cancelled(worker, pacs_node, pacs, filled, cancels):
    relay = Relay(pacs.port, within(PIXEL_DATA, 3))
    try:
        nodes.change(pacs_node, port=relay.port)
        job = transfers.start_retrieval(pacs_node, [uid_of(filled[0])], by=UserFactory(is_superuser=True))
        until(job, lambda one: "objects arrived" in one.progress_text)
        if cancels:
            cancel(job, by=None)
        ended(job)
    finally:
        relay.close()
    if cancels:
        assert job.state == Job.State.CANCELLED
    else:
        assert job.state == Job.State.FAILED
        assert job.cause == "The remote stopped answering after 2 objects."
        assert job.next_step.startswith("It was given 2 s")
    assert Instance.objects.count() == 0
    assert leftovers() == []
    assert not list(Path(settings.MEDIA_ROOT).glob("retrieval-*"))
