"""From the arrival of a study to the result in the PACS, with a real worker and dcmtk as the PACS."""

from __future__ import annotations

import time
from datetime import timedelta

import pydicom
import pytest
from django.conf import settings
from django.utils import timezone

from inference.jobs.models import Job
from inference.routing import pushes, rules
from inference.routing.conditions import RuleError
from inference.routing.models import RoutedStudy
from portal.pacs import transfers
from portal.routing.tasks import turn
from studies.dimse import nodes
from studies.models import Origin, Series
from tests.inference.models_factory import ball_map, ball_series, threshold_version

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _settings(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()
    settings.ROUTING_SETTLE_SECONDS = 0
    settings.DIMSE_TIMEOUT_SECONDS = 2.0


@pytest.fixture
def worker(start_worker):
    return start_worker(
        queues="io,infer", include="inference.prediction.tasks,portal.pacs.tasks",
        MEDIA_ROOT=str(settings.MEDIA_ROOT), DIMSE_TIMEOUT_SECONDS="2",
    )  # fmt: skip


def turn_until(reached, seconds: float = 90) -> RoutedStudy:
    deadline = time.monotonic() + seconds
    while True:
        turn()
        row = RoutedStudy.objects.get(current=True)
        if reached(row):
            return row
        assert time.monotonic() < deadline, (row.outcome, row.reason, row.push, row.push_cause, row.job.state)
        time.sleep(0.2)


def test_a_study_that_comes_in_is_run_and_its_result_alone_goes_to_the_pacs(worker, project, pacs, pacs_node):
    version = threshold_version(project)
    rule = rules.create(project, by=None, name="Balls", version=version, push=True, node=pacs_node)
    rules.switch(rule, True, by=None)
    image = ball_series(project, 1, ball_map(1))
    row = turn_until(lambda row: row.push in ("sent", "failed"))
    assert (row.push, row.push_cause, row.push_attempts) == ("sent", "", 1)
    assert row.prediction.image == image
    sent = [pydicom.dcmread(path, stop_before_pixels=True) for path in pacs.files]
    held = Series.objects.filter(origin=Origin.MODEL).values_list("instances__sop_instance_uid", flat=True)
    assert {dataset.SOPInstanceUID for dataset in sent} == set(held)
    assert [dataset.Modality for dataset in sent if dataset.Modality == "SEG"] == ["SEG"]
    assert {dataset.StudyInstanceUID for dataset in sent} == {image.study.study_instance_uid}

    # again on demand, and the log of the rule goes on
    for path in pacs.files:
        path.unlink()
    pushes.resend(row, by=None)
    turn_until(lambda row: row.push == "sent" and row.push_job_id is not None and pacs.files)
    assert Job.objects.filter(task="portal.pacs.tasks.send").count() == 2


def test_a_pacs_that_is_down_gets_the_result_when_it_is_back(worker, project, pacs, pacs_node):
    port = pacs_node.port
    node = nodes.change(pacs_node, port=1)
    rule = rules.create(project, by=None, name="Balls", version=threshold_version(project), push=True, node=node)
    rules.switch(rule, True, by=None)
    ball_series(project, 1, ball_map(1))
    row = turn_until(lambda row: row.push == "waiting" and row.push_attempts == 1)
    assert row.push_cause
    assert timedelta(seconds=40) < row.push_due_at - timezone.now() <= pushes.PAUSES[0]
    assert pushes.advance(transfers.send_series) == 0, "its time has not come"

    nodes.change(node, port=port)
    pushes.resend(row, by=None)  # somebody does not want to wait
    row = turn_until(lambda row: row.push == "sent")
    assert row.push_attempts == 1
    assert [pydicom.dcmread(path).Modality for path in pacs.files].count("SEG") == 1


def test_after_the_last_attempt_it_has_failed_and_can_be_resent(project, pacs_node):
    version = threshold_version(project)
    rule = rules.create(project, by=None, name="Balls", version=version, push=True, node=pacs_node)
    image = ball_series(project, 1, ball_map(1))
    from inference.prediction.models import Prediction

    mask = Series.objects.create(study=image.study, series_instance_uid="1.2.3", modality="SEG", origin=Origin.MODEL)
    result = Prediction.objects.create(version=version, study=image.study, image=image, segmentation=mask)
    row = RoutedStudy.objects.create(
        rule=rule, rule_name=rule.name, study=image.study, outcome="run", version=version, image=image, told=True,
        number_of_instances=12, prediction=result, node=pacs_node, push="waiting",
    )  # fmt: skip
    for attempt in range(1, len(pushes.PAUSES) + 2):
        assert pushes.advance(transfers.send_series) == 1
        Job.objects.update(state="failed", cause="The remote did not answer.", finished_at=timezone.now())
        assert pushes.advance(transfers.send_series) == 1
        row.refresh_from_db()
        assert row.push_attempts == attempt
        RoutedStudy.objects.update(push_due_at=timezone.now())
    assert (row.push, row.push_cause) == ("failed", "The remote did not answer.")
    assert pushes.advance(transfers.send_series) == 0
    row = pushes.resend(row, by=None)
    assert (row.push, row.push_attempts) == ("waiting", 0)
    with pytest.raises(RuleError):
        pushes.resend(row, by=None)
    nodes.remove(pacs_node)
    pushes.advance(transfers.send_series)
    row.refresh_from_db()
    assert (row.push, row.push_cause) == ("failed", "The node was removed. Choose another one in the rule.")
