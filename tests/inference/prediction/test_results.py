"""What each kind of model leaves in the archive, read back from the files."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from inference.prediction import engine, services
from inference.prediction.models import Prediction
from studies import removal
from studies.dicom import parametric_map, structured_report
from studies.ingest.store import absolute_path
from studies.models import Origin, Series
from studies.volumes import load_masks, load_volume
from tests.factories import ProjectFactory
from tests.inference.models_factory import SHAPE, Fixed, Voxelwise, ball_map, ball_series, program_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


def run(run_job, network, **changes) -> Prediction:
    project = ProjectFactory()
    image = ball_series(project, 1, ball_map(1))
    job = run_job(services.start(program_version(project, network, **changes), studies=[image.study], by=None))
    assert job.result["cases"][0]["state"] == "stored", job.result
    return Prediction.objects.get()


def stored(series: Series) -> pydicom.Dataset:
    assert series.origin == Origin.MODEL
    return pydicom.dcmread(absolute_path(series.instances.get().file))


def test_a_classifier_leaves_a_report_with_its_certainty_and_decision(run_job):
    labels = [{"number": 1, "name": "Disc"}, {"number": 2, "name": "Bar"}]
    prediction = run(run_job, Fixed(0.0, 2.0), task="classification", labels=labels)
    told = structured_report.read(stored(prediction.report))
    assert told.algorithm == ("program", "1")
    assert told.scores["Bar"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)
    assert told.present == {"Disc": False, "Bar": True}
    assert prediction.segmentation is None


def test_labels_that_do_not_exclude_each_other_are_decided_one_by_one(run_job):
    labels = [{"number": 1, "name": "Effusion"}, {"number": 2, "name": "Oedema"}]
    output = {"activation": "sigmoid", "thresholds": {"Effusion": 0.4, "Oedema": 0.9}}
    prediction = run(run_job, Fixed(0.0, 1.0), task="classification", labels=labels, output=output)
    assert structured_report.read(stored(prediction.report)).present == {"Effusion": True, "Oedema": False}


def test_a_regression_leaves_its_value_with_the_unit(run_job):
    labels = [{"number": 1, "name": "Age", "unit": "a", "mean": 50.0, "scale": 10.0}]
    prediction = run(run_job, Fixed(1.25), task="regression", labels=labels, output={})
    assert prediction.values == {"Age": {"value": pytest.approx(62.5), "unit": "a"}}
    (value,) = structured_report.read(stored(prediction.report)).values
    assert (value.name, value.value, value.unit) == ("Age", pytest.approx(62.5), "a")


def test_structures_that_overlap_are_stored_as_they_were_found(run_job):
    labels = [{"number": 1, "name": "Whole"}, {"number": 2, "name": "Core"}]
    prediction = run(
        run_job,
        Voxelwise([[0.1], [0.1]], [0.0, -20.0]),  # brighter than 0 HU, brighter than 200 HU
        labels=labels,
        output={"activation": "sigmoid"},
        inputs=[{"name": "image"}],
    )
    grid = load_volume(prediction.image)
    masks = load_masks(prediction.segmentation, grid, labels)
    assert np.array_equal(masks, np.stack([grid.array >= 0, grid.array >= 200]))
    assert prediction.measurements["Core"]["volume_ml"] == pytest.approx(masks[1].sum() * 0.0014, abs=1e-3)


def test_maps_are_stored_over_the_image_and_leave_with_the_study(run_job):
    prediction = run(
        run_job,
        Voxelwise([[0.0], [0.01]], [0.0, 0.0]),
        labels=[{"number": 1, "name": "Bright"}],
        output={"maps": ["probability"]},
        inputs=[{"name": "image"}],
        inference={"window": list(SHAPE), "mirror": ["x"], "uncertainty": "entropy"},
    )
    uncertainty, probability = prediction.maps.order_by("-kind")
    assert (uncertainty.kind, probability.kind, probability.label) == ("uncertainty", "probability", "Bright")
    grid = load_volume(prediction.image)
    share = 1 / (1 + np.exp(-0.01 * grid.array.astype(float)))
    found = parametric_map.read(stored(probability.series))
    assert found.array == pytest.approx(share, abs=1e-4)
    assert np.allclose(found.affine, grid.affine, atol=1e-3)
    bits = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    dataset = stored(uncertainty.series)
    assert parametric_map.read(dataset).array == pytest.approx(bits, abs=1e-3)
    assert parametric_map.describe(dataset).unit.value == "bit"
    assert prediction.uncertainty["method"] == "2 mirror images"

    study = prediction.study
    assert services.forget(study) == 1
    removal.delete(study)
    assert not Series.objects.exists()
