"""Models of several sequences: which series each input gets, and what is said where none or too many fit."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import generate_uid

from inference.errors import PredictionError
from inference.evaluation import services as evaluations
from inference.prediction import engine, inputs, services
from inference.prediction.models import Prediction
from studies.cohorts import services as cohorts
from studies.cohorts.models import ReferenceStandard
from studies.dicom import segmentation
from studies.models import Origin, Series
from studies.volumes import load_label_map, load_volume, source_datasets
from tests.factories import ProjectFactory, store_datasets
from tests.inference.models_factory import SHAPE, Voxelwise, mr_series, program_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]
LABELS = [{"number": 1, "name": "Brighter in FLAIR"}]
INPUTS = [
    {"name": "T1", "modality": ["MR"], "series": {"words": ["t1"], "contrast": False}},
    {"name": "FLAIR", "modality": ["MR"], "series": {"words": ["flair|dark fluid"]}},
]


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


@pytest.fixture
def project():
    return ProjectFactory()


def version(project, entries=INPUTS, **changes):
    network = Voxelwise([[0.0, 0.0], [-0.1, 0.1]], [0.0, 0.0])
    return program_version(project, network, labels=LABELS, inputs=entries, **changes)


def study_of(*, frame: bool = True) -> dict:
    found = {"StudyInstanceUID": generate_uid(), "PatientID": "M1"}
    return {**found, "FrameOfReferenceUID": generate_uid()} if frame else found


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 400, SHAPE)


def test_every_input_gets_its_series_and_the_channels_are_in_the_manifests_order(project, run_job):
    shared = study_of()
    flair = mr_series(project, values(1), "AX Dark Fluid", shared=shared)
    t1 = mr_series(project, values(2), "SAG T1 MPRAGE", shared=shared)
    mr_series(project, values(3), "T1 Gd", shared=shared, ContrastBolusAgent="Gadobutrol")
    job = run_job(services.start(version(project), studies=[t1.study], by=None))
    assert job.result["cases"][0]["state"] == "stored", job.result
    prediction = Prediction.objects.get()
    assert prediction.image == t1
    assert [(entry["name"], entry["series"]) for entry in prediction.inputs] == [("T1", t1.pk), ("FLAIR", flair.pk)]
    grid = load_volume(t1)
    found = load_label_map(prediction.segmentation, grid, LABELS)
    assert np.array_equal(found == 1, load_volume(flair).array > grid.array)


def test_an_input_on_another_grid_is_resampled_by_geometry(project, run_job):
    """The second series has every other slice: its values are interpolated at the places of the first."""
    shared = study_of()
    coarse = np.broadcast_to(100.0 * np.arange(6)[:, None, None], (6, *SHAPE[1:]))
    datasets = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    flair = mr_series(project, coarse, "FLAIR", shared=shared, **datasets)
    t1 = mr_series(project, np.zeros(SHAPE), "T1", shared=shared)
    chosen = inputs.choose(version(project).manifest, t1.study)
    assert chosen == [t1, flair]
    loaded = inputs.load(version(project).manifest, chosen)
    assert loaded.others[0].shape == loaded.volume.shape
    # Both series start at the same place with slices 2.5 mm apart; the second ends after six.
    assert loaded.others[0].array[:6, 3, 4] == pytest.approx(100.0 * np.arange(6), abs=1e-3)
    assert [entry["placed"] for entry in loaded.how] == ["as it is", "by geometry"]


def test_a_missing_sequence_is_named_with_what_the_study_has(project, run_job):
    shared = study_of()
    t1 = mr_series(project, values(1), "T1 MPRAGE", shared=shared)
    whole = study_of()
    good = mr_series(project, values(2), "T1 MPRAGE", shared=whole)
    mr_series(project, values(3), "FLAIR", shared=whole)
    job = run_job(services.start(version(project), studies=[t1.study, good.study], by=None))
    first, second = job.result["cases"]
    assert first["cause"] == "No series fits the input FLAIR. The study has: T1 MPRAGE (MR, 12 images)."
    assert "by hand" in first["next_step"]
    assert second["state"] == "stored"


def test_two_series_that_fit_are_not_guessed_between_but_can_be_chosen(project, run_job):
    shared = study_of()
    t1, again = (mr_series(project, values(n), f"T1 run {n}", shared=shared) for n in (1, 2))
    flair = mr_series(project, values(3), "FLAIR", shared=shared)
    made = version(project)
    job = run_job(services.start(made, studies=[t1.study], by=None))
    assert "More than one series fits T1. The study has: T1 run 1" in job.result["cases"][0]["cause"]
    job = run_job(services.start(made, studies=[t1.study], by_hand={t1.study_id: {"T1": again.pk}}, by=None))
    assert job.result["cases"][0]["state"] == "stored"
    assert [entry["series"] for entry in Prediction.objects.get().inputs] == [again.pk, flair.pk]


def test_a_choice_is_checked_when_the_run_is_started(project):
    shared = study_of()
    t1 = mr_series(project, values(1), "T1", shared=shared)
    elsewhere = mr_series(project, values(2), "FLAIR", shared=study_of())
    with pytest.raises(PredictionError, match="no input 'T2'"):
        services.start(version(project), studies=[t1.study], by_hand={t1.study_id: {"T2": t1.pk}}, by=None)
    with pytest.raises(PredictionError, match="not among the images"):
        services.start(version(project), studies=[t1.study], by_hand={t1.study_id: {"T1": elsewhere.pk}}, by=None)


def test_another_frame_of_reference_is_refused_unless_the_manifest_allows_to_register(project, run_job):
    shared = study_of(frame=False)
    # Something to align: a block in noise; the second series lies 5 mm further in x.
    block = np.zeros(SHAPE)
    block[3:9, 4:12, 5:14] = 400
    t1 = mr_series(project, block, "T1", shared=shared)
    mr_series(project, block, "FLAIR", shared=shared)
    job = run_job(services.start(version(project), studies=[t1.study], by=None))
    assert "another frame of reference" in job.result["cases"][0]["cause"]
    assert "registration: rigid" in job.result["cases"][0]["next_step"]
    allowed = [INPUTS[0], {**INPUTS[1], "registration": "rigid"}]
    job = run_job(services.start(version(project, allowed, name="aligning"), studies=[t1.study], by=None))
    assert job.result["cases"][0]["state"] == "stored", job.result
    assert Prediction.objects.get().inputs[1]["placed"] == "by rigid registration"


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"words": ["t1"], "without": ["gd"]}, "T1 plain"),
        ({"contrast": True}, "T1 Gd"),
        ({"attributes": {"EchoTime": [0, 20]}}, "T1 plain"),
        ({"attributes": {"SequenceName": ["tfl", "spc"]}}, "T1 Gd"),
    ],
)
def test_a_rule_finds_a_series_by_what_its_headers_say(project, rule, found):
    shared = study_of()
    mr_series(project, values(1), "T1 plain", shared=shared, EchoTime="12", SequenceName="*se2d1")
    mr_series(
        project,
        values(2),
        "T1 Gd",
        shared=shared,
        EchoTime="90",
        SequenceName="*tfl3d1",
        ContrastBolusAgent="Gadobutrol",
    )
    series = list(Series.objects.all())
    entry = {"name": "image", "modality": ["MR"], "series": rule}
    assert [one.series_description for one in inputs.candidates(entry, series)] == [found]


def test_a_case_whose_image_is_the_second_input_is_evaluated(project, run_job):
    """The truth lies on the FLAIR series, the prediction on the grid of T1; both are the same place."""
    shared = study_of()
    flair = mr_series(project, values(1), "FLAIR", shared=shared)
    t1 = mr_series(project, values(2), "T1 MPRAGE", shared=shared)
    cohort = cohorts.create(project=project, name="Sequences", by=None)
    (case,) = cohorts.add_studies(cohort, [t1.study]).cases
    case.image = flair
    case.save()
    brighter = (load_volume(flair).array > load_volume(t1).array).astype(np.uint8)
    mask = store_datasets(
        project, [segmentation.write(source_datasets(flair), brighter, LABELS)], origin=Origin.REFERENCE
    )
    reference = cohorts.create_reference(
        cohort, name="Truth", source=ReferenceStandard.Source.PHANTOM, labels=LABELS,
        cases=[cohorts.CaseTruth(case, mask)], by=None,
    )  # fmt: skip
    evaluation = evaluations.start(version(project), cohort, reference=reference, split="", by=None)
    job = run_job(evaluation.job)
    assert job.state == "succeeded", job.cause
    assert evaluation.case_results.get().values["dice"] == pytest.approx(1.0)
    assert Prediction.objects.get().image == t1
