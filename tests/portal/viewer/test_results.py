"""What the viewer's legend is told about derived series."""

from __future__ import annotations

import numpy as np
import pytest
from django.urls import reverse

from inference.prediction.models import Prediction
from portal.accounts.models import Role
from studies.dicom import structured_report
from studies.dicom.segmentation import Algorithm
from studies.dicom.structured_report import Finding
from studies.models import Origin
from studies.volumes import source_datasets
from tests.factories import ProjectFactory, make_ct_series, member, store_datasets
from tests.portal.rows import version_row

pytestmark = pytest.mark.django_db


def test_findings_of_a_detector_are_shown_from_its_own_threshold_on(client):
    project = ProjectFactory()
    image = make_ct_series(project)
    report = structured_report.write(
        source_datasets(image), findings=[Finding("Nodule", 0.4, np.array([[0.0, 0, 0], [2, 2, 2]]))],
        algorithm=Algorithm("nodules", "1"), series_description="nodules 1 report",
    )  # fmt: skip
    series = store_datasets(project, [report], origin=Origin.MODEL)
    labels = [{"number": 1, "name": "Nodule"}, {"number": 2, "name": "Mass"}]
    version = version_row(project, name="nodules", task="detection")
    version.manifest = {
        "task": "detection",
        "labels": labels,
        "output": {"threshold": 0.7, "thresholds": {"Mass": 0.3}},
    }
    version.save()
    address = reverse("viewer_results", args=[image.study.study_instance_uid])
    client.force_login(member(project, Role.READER))
    (told,) = client.get(address).json()["results"]
    assert (told["modality"], told["least"]) == ("SR", None)  # a report of nobody's prediction
    Prediction.objects.create(version=version, study=image.study, image=image, report=series, scores={})
    (told,) = client.get(address).json()["results"]
    assert told["least"] == 0.3
    version.manifest |= {"task": "classification"}
    version.save()
    assert client.get(address).json()["results"][0]["least"] is None
