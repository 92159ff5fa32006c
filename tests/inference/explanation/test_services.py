"""Explaining a result: what is stored, where, and what is said where it cannot be."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
import torch
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from torch import nn

from inference.errors import ExplanationError
from inference.explanation import explainer, services
from inference.explanation.settings import wanted
from inference.jobs.errors import Cancelled
from inference.jobs.models import Job
from inference.prediction import services as prediction_services
from inference.prediction.models import Prediction, PredictionMap
from inference.registry import services as registry
from portal.accounts.models import Role
from studies.dicom import parametric_map
from studies.ingest.store import absolute_path
from studies.models import Origin
from studies.volumes import load_image
from tests.factories import ProjectFactory, make_ct_series, member
from tests.inference.explanation.conftest import manifest, radiograph
from tests.inference.models_factory import threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


def dataset_of(found: PredictionMap) -> pydicom.Dataset:
    return pydicom.dcmread(absolute_path(found.series.instances.get().file))


@pytest.mark.parametrize("method", ["grad_cam", "occlusion"])
def test_maps_are_parametric_maps_over_the_image(answer, run_job, method):
    engineer = member(answer.version.model.project, Role.ENGINEER)
    job = run_job(services.start(answer, method=method, labels=["disc", "bar"], by=engineer))
    assert job.state == "succeeded", job.cause
    first, second = PredictionMap.objects.all()
    assert [found.label for found in (first, second)] == ["disc", "bar"]
    assert [entry["series"] for entry in job.result["maps"]] == [
        first.series.series_instance_uid, second.series.series_instance_uid,
    ]  # fmt: skip
    assert (first.series.origin, first.series.provenance) == (Origin.MODEL, "shapes 1")
    assert first.series.study_id == answer.study_id
    dataset = dataset_of(first)
    source = answer.image.instances.get()
    frame = dataset.PerFrameFunctionalGroupsSequence[0]
    referenced = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    assert referenced == source.sop_instance_uid
    code = {"grad_cam": "130403", "occlusion": "130404"}[method]  # PS3.16 CID 7180
    assert parametric_map.describe(dataset).quantity.value == code
    volume = load_image(answer.image)
    model = prediction_services.warm_model(answer.version)
    asked = wanted(answer.version.manifest, method=method, labels=["disc"])
    (expected,) = explainer.explain(model, volume, asked, tick=lambda share: None)
    np.testing.assert_allclose(parametric_map.read(dataset).array, expected.volume.array, atol=1e-6)


def test_without_a_label_the_likeliest_one_is_explained(answer):
    likeliest = max(answer.scores, key=answer.scores.get)
    assert services.start(answer, method="occlusion", by=None).parameters["labels"] == [likeliest]


def test_a_model_that_is_no_classifier_is_refused_before_a_job_is_made(db):
    project = ProjectFactory()
    image = make_ct_series(project, 2)
    prediction = Prediction.objects.create(version=threshold_version(project), study=image.study, image=image)
    with pytest.raises(ExplanationError, match="says itself where it looks"):
        services.start(prediction, method="occlusion", by=None)
    assert not Job.objects.exists()


def test_a_result_that_goes_while_the_job_waits_ends_it_in_words(answer, run_job):
    job = services.start(answer, method="grad_cam", by=None)
    answer.delete()
    ended = run_job(job)
    assert (ended.state, ended.cause) == (
        "failed", "The result that was to be explained is not there any more.",
    )  # fmt: skip
    assert ended.next_step


def test_a_cancelled_occlusion_stores_nothing(answer):
    job = services.start(answer, method="occlusion", patch=2, stride=1, by=None)

    def tick(share):
        if share > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        services.explain(answer, job.parameters, by=None, tick=tick, transact=transaction.atomic)
    assert not PredictionMap.objects.exists()


def test_page_rest_and_command_make_the_same_job(answer, capsys):
    project = answer.version.model.project
    client = Client()
    client.force_login(member(project, Role.ENGINEER))
    page = client.get(f"/predictions/{answer.pk}/explain/").content.decode()
    assert "not that the answer is right" in page
    assert "Research use, not a medical device" in page
    asked = {"method": "occlusion", "labels": ["bar"], "patch": 6, "stride": 3, "baseline": "minimum"}
    answered = client.post(f"/predictions/{answer.pk}/explain/", asked)
    assert answered.status_code == 302, answered.content.decode()[:2000]
    by_rest = client.post(f"/api/predictions/{answer.pk}/explain/", asked, content_type="application/json")
    assert by_rest.status_code == 201, by_rest.content
    call_command(
        "explain", str(answer.pk), "--method", "occlusion", "--label", "bar", "--patch", "6", "--stride", "3",
        "--baseline", "minimum", "--json",
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out)["prediction"] == answer.pk
    first, second, third = (job.parameters for job in Job.objects.order_by("-pk")[:3])
    assert first == second == third
    assert first["labels"] == ["bar"]


def test_what_the_model_cannot_do_is_said_on_the_page_and_by_rest(answer):
    client = Client()
    client.force_login(member(answer.version.model.project, Role.ENGINEER))
    wrong = {"method": "occlusion", "labels": ["bar"], "patch": 500}
    page = client.post(f"/predictions/{answer.pk}/explain/", {**wrong, "patch": "-1"})
    assert page.status_code == 422
    said = client.post(f"/api/predictions/{answer.pk}/explain/", {**wrong, "labels": ["ring"]}, "application/json")
    assert said.status_code in (400, 409, 422)
    assert "no label" in said.content.decode()


def test_maps_lead_into_the_viewer_over_their_image(answer, run_job):
    run_job(services.start(answer, method="grad_cam", labels=["disc"], by=None))
    client = Client()
    client.force_login(member(answer.version.model.project, Role.VIEWER))
    page = client.get(f"/predictions/{answer.pk}/explain/").content.decode()
    uid = PredictionMap.objects.get().series.series_instance_uid
    assert f"map={uid}" in page
    assert "Make a map" not in page, "viewers look, engineers make"
    there = client.get(f"/studies/{answer.study_id}/view/?series={answer.image.series_instance_uid}&map={uid}")
    assert f"map={uid}" in there["Location"]


def test_somebody_elses_result_is_not_there(answer):
    client = Client()
    client.force_login(member(ProjectFactory(), Role.MANAGER))
    assert client.get(f"/predictions/{answer.pk}/explain/").status_code == 404
    assert client.post(f"/api/predictions/{answer.pk}/explain/", {"method": "occlusion"}).status_code == 404


def test_the_page_asks_as_often_for_many_maps_as_for_one(answer, run_job):
    run_job(services.start(answer, method="grad_cam", labels=["disc"], by=None))
    client = Client()
    client.force_login(member(answer.version.model.project, Role.ENGINEER))
    client.get(f"/predictions/{answer.pk}/explain/")  # the first look writes its row of the audit trail
    with CaptureQueriesContext(connection) as one:
        client.get(f"/predictions/{answer.pk}/explain/")
    run_job(services.start(answer, method="occlusion", labels=["disc", "bar"], by=None))
    with CaptureQueriesContext(connection) as many:
        client.get(f"/predictions/{answer.pk}/explain/")
    assert len(many) == len(one)


def test_a_program_is_explained_by_occlusion(media, run_job, tmp_path):
    project = ProjectFactory()
    program = tmp_path / "model.ts"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.jit.trace(network, torch.zeros(1, 1, 32, 32)).save(str(program))
    model = registry.create_model(project=project, name="program", task="classification", by=None)
    version = registry.register_version(
        model, manifest(network={"name": "torchscript", "dimensions": 2}), program, by=None
    )
    run_job(prediction_services.start(version, studies=[radiograph(project).study], by=None))
    job = run_job(services.start(Prediction.objects.get(), method="occlusion", by=None))
    assert job.state == "succeeded", job.cause
    assert np.abs(parametric_map.read(dataset_of(PredictionMap.objects.get())).array).max() > 0
