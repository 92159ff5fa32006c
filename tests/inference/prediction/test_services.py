"""Running a version on cases: what is stored, what is told about cases that cannot be run."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from inference.errors import PredictionError
from inference.prediction import engine, inputs, services
from inference.prediction.models import Prediction
from portal.accounts.models import Role
from studies import removal
from studies.cohorts import services as cohorts
from studies.ingest.store import absolute_path
from studies.models import Embargo, Origin, Series, Study
from studies.volumes import load_label_map, load_volume
from tests.factories import ProjectFactory, make_ct_series, member
from tests.inference.models_factory import LABELS, ball_cohort, ball_map, ball_series, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    """Every test loads its models itself."""
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


def test_a_cohort_is_run_and_the_results_are_in_the_archive(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 3, freeze=False)
    version = threshold_version(project)
    engineer = member(project, Role.ENGINEER)
    job = run_job(services.start(version, cohort=cohort, by=engineer))
    assert job.state == "succeeded", job.cause
    assert (job.result["stored"], job.result["already_there"], job.result["failed"]) == (3, 0, 0)
    assert [case["name"] for case in job.result["cases"]] == ["C-0001", "C-0002", "C-0003"]

    for prediction in Prediction.objects.all():
        series = prediction.segmentation
        assert (series.modality, series.origin, series.provenance) == ("SEG", Origin.MODEL, "threshold 1")
        assert series.study_id == prediction.study_id
        dataset = pydicom.dcmread(absolute_path(series.instances.get().file))
        algorithm = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("threshold", "1")
        assert dataset.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
        volume = load_volume(prediction.image)
        expected = services.warm_model(version).predict(volume)
        stored = load_label_map(series, volume, LABELS)
        assert np.array_equal(stored, expected.label_map)
        millilitres = (stored == 1).sum() * 0.8 * 0.7 * 2.5 / 1000
        assert prediction.measurements["Ball"]["volume_ml"] == pytest.approx(millilitres, abs=1e-4)
        assert prediction.scores == pytest.approx(expected.scores)


def test_running_again_changes_nothing(run_job):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 2, freeze=False)
    version = threshold_version(project)
    run_job(services.start(version, cohort=cohort, by=None))
    before = set(Prediction.objects.values_list("pk", "segmentation"))
    series = Series.objects.count()
    job = run_job(services.start(version, cohort=cohort, by=None))
    assert [case["state"] for case in job.result["cases"]] == ["already there"] * 2
    assert set(Prediction.objects.values_list("pk", "segmentation")) == before
    assert Series.objects.count() == series


def test_a_bad_case_has_a_cause_and_never_stops_the_others(run_job):
    project = ProjectFactory()
    good = [ball_series(project, seed, ball_map(seed)) for seed in (1, 2)]
    short = make_ct_series(project, 3, PatientID="S1")
    magnetic = ball_series(project, 3, ball_map(3), Modality="MR")
    cohort = cohorts.create(project=project, name="Mixed", by=None)
    cohorts.add_studies(cohort, [series.study for series in (good[0], short, magnetic, good[1])])
    lost = ball_series(project, 4, ball_map(4))
    absolute_path(lost.instances.first().file).unlink()
    cohorts.add_studies(cohort, [lost.study])
    job = run_job(services.start(threshold_version(project), cohort=cohort, by=None))
    assert job.state == "succeeded"
    assert [case["state"] for case in job.result["cases"]] == ["stored", "failed", "failed", "stored", "failed"]
    causes = [case["cause"] for case in job.result["cases"]]
    assert "too few slices" in causes[1]
    assert causes[2] == "The image is MR, the model works on CT."
    assert "cannot be read" in causes[4]
    assert all(case["next_step"] for case in job.result["cases"] if case["state"] == "failed")
    assert Prediction.objects.count() == 2
    log = " ".join(job.log.values_list("text", flat=True))
    assert "C-0002" in log
    assert "Test^Tessa" not in log + str(job.result)


def test_damaged_weights_fail_the_job_in_words(run_job):
    from inference.registry.services import folder_of

    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 1, freeze=False)
    version = threshold_version(project)
    (folder_of(version.bundle) / "weights.safetensors").write_bytes(b"garbage")
    job = run_job(services.start(version, cohort=cohort, by=None))
    assert (job.state, job.error_class) == ("failed", "BundleError")
    assert "digest differs" in job.cause
    assert job.next_step


def test_studies_instead_of_a_cohort_pick_the_series_that_fits(run_job):
    project = ProjectFactory()
    image = ball_series(project, 1, ball_map(1))
    version = threshold_version(project)
    job = run_job(services.start(version, studies=[image.study], by=None))
    assert job.result["stored"] == 1
    assert Prediction.objects.get().image == image


def test_the_series_that_was_chosen_is_taken_instead_of_the_usual_one(run_job):
    project = ProjectFactory()
    usual = ball_series(project, 1, ball_map(1))
    chosen = ball_series(project, 2, ball_map(2), patient="B1", StudyInstanceUID=usual.study.study_instance_uid)
    version = threshold_version(project)
    assert inputs.choose(version.manifest, usual.study) == [usual]
    run_job(services.start(version, studies=[usual.study], images={usual.study_id: chosen.pk}, by=None))
    assert Prediction.objects.get().image == chosen


def test_when_another_job_is_quicker_its_result_stands(run_job, monkeypatch):
    """The other prediction appears while this one computes."""
    project = ProjectFactory()
    image = ball_series(project, 1, ball_map(1))
    version = threshold_version(project)
    predict = engine.LoadedModel.predict
    quicker = []

    def slow(model, volume, **how):
        output = predict(model, volume, **how)
        quicker.append(Prediction.objects.create(version=version, study=image.study, image=image))
        return output

    monkeypatch.setattr(engine.LoadedModel, "predict", slow)
    job = run_job(services.start(version, studies=[image.study], by=None))
    assert job.state == "succeeded", job.cause
    assert job.result["cases"][0]["state"] == "already there"
    assert job.result["cases"][0]["prediction"] == quicker[0].pk
    assert not Series.objects.filter(origin=Origin.MODEL).exists()


def test_a_study_that_is_deleted_while_its_job_runs_has_a_cause_and_the_next_one_is_run(run_job, monkeypatch):
    project = ProjectFactory()
    gone, stays = (ball_series(project, seed, ball_map(seed)) for seed in (1, 2))
    uid = gone.study.study_instance_uid
    predict = engine.LoadedModel.predict

    def slow(model, volume, **how):
        output = predict(model, volume, **how)
        if found := Study.objects.filter(pk=gone.study_id).first():
            removal.delete(found)
        return output

    monkeypatch.setattr(engine.LoadedModel, "predict", slow)
    job = run_job(services.start(threshold_version(project), studies=[gone.study, stays.study], by=None))
    assert job.state == "succeeded", job.cause
    first, second = job.result["cases"]
    assert (first["state"], second["state"]) == ("failed", "stored")
    assert "deleted while the model ran" in first["cause"]
    assert first["next_step"]
    assert not Study.objects.filter(study_instance_uid=uid).exists()


def test_what_cannot_be_started():
    ours, theirs = ProjectFactory(), ProjectFactory()
    version = threshold_version(ours)
    foreign = ball_series(theirs, 1, ball_map(1))
    empty = cohorts.create(project=ours, name="Empty", by=None)
    with pytest.raises(PredictionError, match="another one"):
        services.start(version, studies=[foreign.study], by=None)
    with pytest.raises(PredictionError, match="no case"):
        services.start(version, cohort=empty, by=None)
    with pytest.raises(PredictionError, match="cohort or studies"):
        services.start(version, by=None)


def test_predictions_are_seen_by_members_but_not_by_a_blinded_reader(run_job):
    project = ProjectFactory()
    reader, outsider = member(project, Role.READER), member(ProjectFactory(), Role.MANAGER)
    images = [ball_series(project, seed, ball_map(seed)) for seed in (1, 2)]
    run_job(services.start(threshold_version(project), studies=[image.study for image in images], by=None))
    blinded, open_one = (Prediction.objects.get(image=image) for image in images)
    assert set(Prediction.objects.visible_to(reader)) == {blinded, open_one}
    assert not Prediction.objects.visible_to(outsider).exists()
    Embargo.objects.create(user=reader, study=images[0].study, reason="campaign:1")
    assert set(Prediction.objects.visible_to(reader)) == {open_one}
