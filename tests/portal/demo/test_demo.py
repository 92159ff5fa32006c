"""The demonstration, small but whole: real workers, a real training, real reads."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from inference.evaluation.models import Evaluation
from inference.jobs.models import Job
from inference.jobs.services import retry
from inference.jobs.waiting import wait
from inference.prediction.models import Prediction
from portal.accounts.models import Project, User
from portal.annotation.models import Campaign, Consensus, Overlap, Read, Task
from portal.demo import services
from portal.demo.archive import SAMPLES
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.models import Instance, Origin, Refusal, Series, Study
from studies.volumes import load_label_map, load_volume
from tests.factories import ProjectFactory, UserFactory

SMALL = services.Size(phantoms=12, reading_cases=3, own_cases=2, epochs=2)


@pytest.fixture
def admin(db) -> User:
    return UserFactory(is_superuser=True)


@pytest.mark.django_db(transaction=True)
def test_the_demonstration_shows_everything_that_the_portal_does(start_worker, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()
    admin = UserFactory(is_superuser=True)
    start_worker(concurrency=3, include="portal.demo.tasks", MEDIA_ROOT=str(settings.MEDIA_ROOT))
    job = wait(services.request(by=admin, size=SMALL))
    assert job.state == Job.State.SUCCEEDED, f"{job.cause} {list(job.log.values_list('text', flat=True))[-3:]}"

    project = Project.objects.get(slug="demo")
    assert project.synthetic
    assert Study.objects.filter(project=project, synthetic=True).count() == 12
    assert not Refusal.objects.filter(batch__project=project).exists()
    acquired = Instance.objects.filter(project=project, series__study__synthetic=False)
    assert acquired.count() == len(SAMPLES)

    truth = ReferenceStandard.objects.get(source=ReferenceStandard.Source.PHANTOM)
    assert truth.case_labels.count() == 12
    assert not Series.objects.filter(study__synthetic=True, origin=Origin.ACQUIRED, modality="SEG").exists()
    evaluations = {one.reference.cohort.name: one for one in Evaluation.objects.all()}
    assert len(evaluations) == 2
    assert all(one.finished_at and one.summary["Liver"]["dice"]["n"] for one in evaluations.values())
    assert all(one.overlap["patients"] == 0 for one in evaluations.values())
    assert Prediction.objects.count() == 6  # the test side of the split

    campaign = Campaign.objects.get(state=Campaign.State.CLOSED)
    reads = Read.objects.filter(task__campaign=campaign).select_related("task__reader", "task__case__image")
    assert reads.count() == 9
    assert all(not read.task.reader.has_usable_password() for read in reads)
    assert all("synthetic" in read.segmentation.series_description for read in reads)
    consensus = Consensus.objects.get().reference
    assert consensus.case_labels.count() == 3
    for label in consensus.case_labels.select_related("case__image", "segmentation"):
        volume = load_volume(label.case.image)
        agreed = load_label_map(label.segmentation, volume, consensus.labels) > 0
        exact = truth.case_labels.get(case__study=label.case.study)
        known = load_label_map(exact.segmentation, volume, truth.labels) > 0
        assert 2 * np.sum(agreed & known) / (agreed.sum() + known.sum()) > 0.9
    assert Overlap.objects.filter(first__task__campaign=campaign).exists()
    assert Task.objects.filter(campaign__state=Campaign.State.READING, reader=admin, state=Task.State.OPEN).count() == 2

    counted = (Instance, Series, Study, Cohort, ReferenceStandard, Read, Prediction, Evaluation, Campaign)
    before = [model.objects.count() for model in counted]
    Job.objects.filter(pk=job.pk).update(state=Job.State.FAILED)  # as if it had been cut off at the very end
    again = wait(services.request(by=admin, size=SMALL))
    assert again.pk == job.pk
    assert again.state == Job.State.SUCCEEDED
    assert before == [model.objects.count() for model in counted]


def test_pressing_twice_asks_once(client, admin):
    client.force_login(admin)
    first = client.post(reverse("demo"))
    second = client.post(reverse("demo"))
    job = Job.objects.get(task="portal.demo.tasks.load_demo")
    assert first.url == second.url == reverse("job", args=[job.pk])
    assert job.parameters == asdict(services.Size())
    assert Project.objects.filter(synthetic=True).count() == 1


def test_a_failed_demonstration_is_queued_again(admin):
    job = services.request(by=admin)
    Job.objects.filter(pk=job.pk).update(state=Job.State.FAILED)
    assert services.request(by=admin).pk == job.pk
    job.refresh_from_db()
    assert job.state == Job.State.QUEUED
    Job.objects.filter(pk=job.pk).update(state=Job.State.CANCELLED)
    retry(Job.objects.get(pk=job.pk), by=admin)


def test_a_project_of_that_name_with_real_data_is_left_alone(admin):
    theirs = ProjectFactory(slug="demo", synthetic=False)
    job = services.request(by=admin)
    assert job.project.slug == "readroom-demo"
    assert not theirs.jobs.exists()


@pytest.mark.django_db
def test_the_command_needs_an_administrator():
    with pytest.raises(CommandError, match="make run"):
        call_command("demo")


def test_the_command_can_only_queue(admin):
    out = StringIO()
    call_command("demo", "--no-wait", stdout=out)
    assert f"/jobs/{Job.objects.get().pk}/" in out.getvalue()


@pytest.mark.django_db
def test_only_administrators_load_it(client):
    assert client.post(reverse("demo")).status_code == 302  # to the login page
    client.force_login(UserFactory())
    assert client.post(reverse("demo")).status_code == 403
    assert client.get(reverse("demo")).status_code == 405
    assert not Job.objects.exists()
