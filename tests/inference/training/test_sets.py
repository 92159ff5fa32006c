"""What is loaded for a fit: learned scales, images of mixed kinds, and sets that nothing can be learned from."""

from __future__ import annotations

import numpy as np
import pytest

from inference.errors import TrainingError
from inference.imaging import intensity, preprocessing
from inference.training import cases, class_cases, crossvalidation, services
from inference.training.data import mixed_spacing
from studies.cohorts.models import Case, Split
from studies.volumes import load_image, load_volume
from tests.factories import ProjectFactory, ct_datasets, store_datasets
from tests.inference.class_factory import CLASSES, shape_cohort
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.models_factory import CONFIG, ball_cohort

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


def test_a_histogram_scale_is_learned_from_training_patients_alone_and_stands_in_run_and_version(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 8)
    config = {**CONFIG, "preprocessing": [{"name": "orient"}, {"name": "nyul"}, {"name": "normalise"}]}
    run = services.start(project=project, config=config, cohort=cohort, by=None)
    job = run_job(run.job)
    assert job.state == "succeeded", job.cause
    run.refresh_from_db()
    sides = {
        split: [load_volume(case.image).array for case in Case.objects.filter(cohort_patient__split=split)]
        for split in Split.values
    }
    scale = run.config["preprocessing"][1]["scale"]
    assert scale == pytest.approx(intensity.landmarks(sides[Split.TRAIN]))
    assert scale != pytest.approx(intensity.landmarks([*sides[Split.TRAIN], *sides[Split.TEST]]))
    assert run.version.manifest["preprocessing"][1]["scale"] == scale
    log = "\n".join(job.log.values_list("text", flat=True))
    assert "learned from the 4 training images alone" in log
    assert "step 2 (nyul) is meant for MR, and there are images of modality CT" in log


def test_a_cross_validation_does_not_take_one_scale_for_all_rounds():
    project = ProjectFactory()
    cohort, _ = shape_cohort(project, 8, folds=2, fractions={})
    with pytest.raises(TrainingError, match="would have seen the patients of every test") as caught:
        crossvalidation.start(
            project=project, config={**SHAPES, "preprocessing": [{"name": "nyul"}]}, cohort=cohort, by=None
        )
    assert "percentile" in caught.value.next_step


def test_a_pet_series_becomes_suv_by_its_headers():
    datasets = ct_datasets(3, Modality="PT", Rows=4, Columns=4)
    for dataset in datasets:
        dataset.update(
            {
                "Units": "BQML",
                "CorrectedImage": ["DECY", "ATTN"],
                "DecayCorrection": "ADMIN",
                "PatientWeight": "70",
                "RescaleIntercept": "0",
                "RescaleSlope": "2",
            }
        )
        drug = type(dataset)()
        drug.RadionuclideTotalDose = "370000000"
        dataset.RadiopharmaceuticalInformationSequence = [drug]
        dataset.PixelData = np.full((4, 4), 2500, "<i2").tobytes()
    steps = preprocessing.check([{"name": "suv"}])
    series = store_datasets(ProjectFactory(), datasets)
    found = preprocessing.prepare(load_image(series), steps).array
    assert found == pytest.approx(5000 * 70_000 / 370e6)  # 0.946 g/ml, worked out by hand


def test_a_class_that_no_training_patient_shows_is_refused_before_the_first_step(run_job):
    project = ProjectFactory()
    cohort, reference = shape_cohort(project, 12)
    for entry in class_cases.classified(reference, CLASSES, Split.TRAIN):
        if entry.values["class"] == "bar":
            entry.delete()
    run = services.start(project=project, config=SHAPES, cohort=cohort, by=None)
    job = run_job(run.job)
    assert (job.state, job.attempt) == ("failed", 1)
    assert "training cases shows bar" in job.cause
    assert "data.structures" in job.next_step


def test_cases_that_will_not_fit_into_memory_are_refused_while_they_are_loaded():
    cases.check_room(10**6, 1, 10)
    with pytest.raises(TrainingError, match="1000 prepared cases take about 931322") as caught:
        cases.check_room(10**12, 1, 1000)
    assert "Crop the images" in caught.value.next_step


def test_very_different_spacings_are_told_and_nearly_equal_ones_are_not():
    assert mixed_spacing([(1, 1, 1), (1.2, 1.4, 1)]) == ""
    assert "from 1×0.5×0.5 to 5×0.5×0.5 mm" in mixed_spacing([(1, 0.5, 0.5), (5, 0.5, 0.5)])
