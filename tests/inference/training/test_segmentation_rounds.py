"""Cross-validation of a segmentation: who learns from whom, figures, going on after a stop, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from inference.errors import ConfigError, TrainingError
from inference.evaluation import services as evaluation_services
from inference.evaluation.models import CaseResult
from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.imaging import intensity
from inference.jobs import services as jobs
from inference.registry import bundle
from inference.registry import services as registry
from inference.training import config, crossvalidation, members, outline_rounds, outlines, partitions
from inference.training.data import SegmentationData
from inference.training.models import CrossValidation, HeldOutResult, ValidationRound
from studies.cohorts import services as cohorts
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.volumes import load_label_map, load_volume
from tests.factories import ProjectFactory
from tests.inference.models_factory import CONFIG, LABELS, ball_cohort, ball_map

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]
NAMES = [label["name"] for label in LABELS]


def changed(*, rounds: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    made = {**CONFIG, "task": "segmentation", "training": {**CONFIG["training"], **training}}
    return {**made, "cross_validation": rounds} if rounds else made


def begun(cohort: Cohort, settings: dict[str, Any], **more: Any) -> CrossValidation:
    return crossvalidation.start(project=cohort.project, config=settings, cohort=cohort, by=None, **more)


def done(made: CrossValidation, run_job) -> CrossValidation:
    job = run_job(made.job)
    assert job.state == "succeeded", job.cause
    made.refresh_from_db()
    return made


def results(made: CrossValidation, **where: Any):
    return HeldOutResult.objects.filter(round__cross_validation=made, **where).select_related("case", "round")


@pytest.fixture
def given(monkeypatch) -> list[tuple[set[str], set[str]]]:
    """(learned from, looked at for early stopping) of every fit: what the networks were really given."""
    seen: list[tuple[set[str], set[str]]] = []

    class Watched(SegmentationData):
        def __init__(self, training, validation, settings):
            seen.append(({case.name for case in training}, {case.name for case in validation}))
            super().__init__(training, validation, settings)

    monkeypatch.setattr(members, "SegmentationData", Watched)
    return seen


def test_every_case_is_outlined_once_by_a_network_that_was_given_none_of_its_patient(run_job, given, media):
    cohort, _ = ball_cohort(
        ProjectFactory(), 6, maker=lambda seed: ("East", "West")[seed % 2], folds=3, fractions={"test": 0}
    )
    rounds = {"schemes": ["folds", "sources"], "source": "manufacturer"}
    made = done(begun(cohort, changed(rounds=rounds)), run_job)
    every = set(cohort.cases.values_list("name", flat=True))
    places = [
        *(({case.name for case in Case.objects.filter(cohort_patient__fold=fold)}, every) for fold in range(3)),
        *((set(cohort.cases.filter(image__manufacturer=name).values_list("name", flat=True)), every) for name in
          ("East", "West")),
    ]  # fmt: skip
    assert len(given) == 5
    for (learned, looked_at), (test, all_cases) in zip(given, places, strict=True):
        assert test
        assert learned == all_cases - test
        assert not looked_at
    for scheme in ("folds", "sources"):
        for name in NAMES:
            assert sorted(r.case.name for r in results(made, round__scheme=scheme, structure=name)) == sorted(every)
    schemes = made.summary["schemes"]
    assert [part["name"] for part in schemes["folds"]["rounds"]] == ["fold 1", "fold 2", "fold 3"]
    assert schemes["sources"]["structures"] == {}  # two networks that learned from different sources are not pooled
    tables = outlines.tables(made.summary)
    assert [table["title"] for table in tables] == ["by fold", "without East", "without West"]
    assert [dict(table["structures"])["Ball"]["dice"]["n"] for table in tables] == [6, 3, 3]
    for name in NAMES:
        own = results(made, round__scheme="folds", structure=name).order_by("round__name", "case__name")
        values = [result.values["dice"] for result in own]
        wanted = bootstrap_mean(values, patients=range(6), seed=20_240_101).as_dict()
        found = schemes["folds"]["structures"][name]["dice"]
        assert found["estimate"] == pytest.approx(sum(values) / 6)
        assert found == wanted
        assert found["method"].startswith("BCa bootstrap over 6 patients")
        per_round = [part["structures"][name]["dice"]["estimate"] for part in schemes["folds"]["rounds"]]
        assert np.mean(per_round) == pytest.approx(found["estimate"])
    assert not list((media / "training").glob("cross-validation-*"))  # weights of rounds are not kept


def test_the_figures_are_those_of_an_evaluation_of_the_same_network(run_job, monkeypatch, tmp_path):
    """And Dice that of the balls as they were drawn."""
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 4, folds=2, fractions={"test": 0})
    kept: list[Path] = []

    def keep(folder: Path) -> None:
        if (folder / "bundle").exists():
            kept.append(Path(shutil.copytree(folder / "bundle", tmp_path / str(len(kept)))))
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(outline_rounds, "forget", keep)
    made = done(begun(cohort, changed(epochs=6)), run_job)
    assert len(kept) == 2
    for fold, folder in enumerate(kept):
        model = registry.create_model(project=project, name=f"fold-{fold}", task="segmentation", by=None)
        version = registry.register_version(
            model, bundle.read(folder).manifest, load_file(folder / bundle.WEIGHTS), by=None
        )
        evaluation = evaluation_services.start(version, cohort, reference=reference, split="", by=None)
        assert run_job(evaluation.job).state == "succeeded"
        own = results(made, round__name=f"fold {fold + 1}")
        assert own.count() == 4
        for result in own:
            other = CaseResult.objects.get(evaluation=evaluation, case=result.case, structure=result.structure)
            assert result.values == pytest.approx(other.values, nan_ok=True)
            assert (result.present, result.predicted) == (other.present, other.predicted)
            assert result.score == pytest.approx(other.score)
            prediction = version.predictions.get(image=result.case.image)
            volume = load_volume(result.case.image)
            found = load_label_map(prediction.segmentation, volume, LABELS) == NAMES.index(result.structure) + 1
            seed = int(result.case.image.study.patient.patient_id.rpartition("-")[2])
            truth = ball_map(seed) == NAMES.index(result.structure) + 1
            both = 2 * (truth & found).sum() / (truth.sum() + found.sum())
            assert result.values["dice"] == pytest.approx(both)
    assert any(result.values["dice"] > 0.3 for result in results(made))


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("stop_at", ["fit", "outlining"])
def test_after_a_stop_it_goes_on_in_its_round_and_ends_as_an_unbroken_one(run_job, given, monkeypatch, stop_at):
    cohort, _ = ball_cohort(ProjectFactory(), 6, folds=3, fractions={"test": 0})
    settings = changed(epochs=3)
    unbroken = done(begun(cohort, settings), run_job)
    assert len(given) == 3

    broken = begun(cohort, settings)
    with monkeypatch.context() as patched:
        if stop_at == "fit":
            fit, fits = members.fit, []

            def stopping(config, names, data, folder, watcher):
                fits.append(folder)
                if len(fits) == 2:
                    watcher.metric = lambda name, step, value: _cut_at(step, 3)
                return fit(config, names, data, folder, watcher)

            patched.setattr(members, "fit", stopping)
        else:
            measured: list[str] = []
            load = outline_rounds.load_volume

            def load_volume(series):
                measured.append(series)
                if len(measured) == 4:  # the second case of the second round
                    raise PowerCut
                return load(series)

            patched.setattr(outline_rounds, "load_volume", load_volume)
        job = run_job(broken.job)
    assert job.state != "succeeded"
    assert [(row.name, bool(row.finished_at)) for row in broken.rounds.order_by("pk")] == [
        ("fold 1", True),
        ("fold 2", False),
    ]
    assert results(broken).count() == 4
    if job.state == "failed":
        jobs.retry(job, by=None)
    again = run_job(job)
    assert again.state == "succeeded", again.cause
    broken.refresh_from_db()
    log = "\n".join(again.log.values_list("text", flat=True))
    assert ("Going on from the checkpoint after epoch 2" in log) == (stop_at == "fit")
    # three fits of the unbroken one, two before the stop, then those that were not over
    assert len(given) == 3 + 2 + (2 if stop_at == "fit" else 1)
    same = ("round__name", "case__name", "structure", "values", "present", "predicted", "score")
    assert list(results(broken).order_by("case__name", "structure").values_list(*same)) == list(
        results(unbroken).order_by("case__name", "structure").values_list(*same)
    )
    assert broken.summary["schemes"]["folds"]["structures"] == unbroken.summary["schemes"]["folds"]["structures"]


def _cut_at(step: int, limit: int) -> None:
    if step == limit:
        raise PowerCut


def test_a_structure_that_a_round_never_showed_is_told_and_not_counted(run_job):
    cohort, _ = ball_cohort(ProjectFactory(), 6, dim=lambda seed: seed == 2, folds=3, fractions={"test": 0})
    holder = Case.objects.get(cohort=cohort, image__study__patient__patient_id="Balls-2")
    fold = holder.cohort_patient.fold
    made = done(begun(cohort, changed()), run_job)
    parts = made.summary["schemes"]["folds"]["rounds"]
    assert [part["unseen"] for part in parts] == [["Dim ball"] if n == fold else [] for n in range(3)]
    assert parts[fold]["structures"]["Dim ball"]["dice"]["reason"] == "never seen in training"
    dim = made.summary["schemes"]["folds"]["structures"]["Dim ball"]
    assert dim["left_out"] == 2
    assert dim["absolute_volume_difference_ml"]["n"] == 4
    assert dim["case_sensitivity"]["reason"] == "no case holds it"
    assert made.summary["schemes"]["folds"]["structures"]["Ball"]["dice"]["n"] == 6
    # Where neither reference nor network marks a voxel, Dice is undefined and counted, as in an evaluation.
    assert dim["dice"]["n"] + dim["dice"].get("undefined", 4 - dim["dice"]["n"]) == 4
    log = "\n".join(made.job.log.values_list("text", flat=True))
    assert "no training case shows Dim ball: it is not judged in this round" in log


def test_a_fold_without_a_case_is_told_and_the_others_are_judged(run_job, given):
    cohort, _ = ball_cohort(ProjectFactory(), 6, folds=3, fractions={"test": 0})
    truths = {label.case_id: label.segmentation for label in cohort.reference_standards.get().case_labels.all()}
    some = [case for case in cohort.cases.all() if case.cohort_patient.fold != 1]
    reference = cohorts.create_reference(
        cohort,
        name="Two folds",
        source=ReferenceStandard.Source.PHANTOM,
        labels=LABELS,
        cases=[cohorts.CaseTruth(case, truths[case.pk]) for case in some],
        by=None,
    )
    made = done(begun(cohort, changed(), reference=reference), run_job)
    parts = made.summary["schemes"]["folds"]["rounds"]
    assert [part["problem"] for part in parts] == ["", "the reference standard has none of its cases", ""]
    assert [part["judged"] for part in parts] == [2, 0, 2]
    assert [len(learned) for learned, _ in given] == [2, 2]
    assert made.summary["schemes"]["folds"]["structures"]["Ball"]["dice"]["n"] == 4
    one_fold = cohorts.create_reference(
        cohort,
        name="One fold",
        source=ReferenceStandard.Source.PHANTOM,
        labels=LABELS,
        cases=[cohorts.CaseTruth(case, truths[case.pk]) for case in some if case.cohort_patient.fold == 0],
        by=None,
    )
    with pytest.raises(TrainingError, match="No round could be judged: of fold 1, there is no training case"):
        begun(cohort, changed(), reference=one_fold)


def test_scales_and_plans_are_learned_in_each_round_from_its_own_training_patients(run_job):
    cohort, _ = ball_cohort(ProjectFactory(), 6, folds=3, fractions={"test": 0})
    known = {"name": "nyul", "scale": [float(n) for n in range(11)]}  # from a run that saw every patient, say
    settings = {
        **changed(epochs=1, patch=None),
        "network": {"name": "nnunet", "features": 4},
        "preprocessing": [{"name": "orient"}, known],
    }
    made = done(begun(cohort, settings), run_job)
    assert made.config["preprocessing"][1]["scale"] == []
    rows = list(ValidationRound.objects.filter(cross_validation=made).order_by("name"))
    assert len(rows) == 3
    for fold, row in enumerate(rows):
        others = Case.objects.filter(cohort=cohort).exclude(cohort_patient__fold=fold).order_by("name", "pk")
        steps = {step["name"]: step for step in row.config["preprocessing"]}
        assert row.config["network"]["parameters"]["strides"]
        assert row.config["training"]["patch"]
        # the plan resamples to the spacing that the images have already
        assert steps["nyul"]["scale"] == pytest.approx(
            intensity.landmarks(load_volume(case.image).array for case in others), rel=1e-3
        )
        assert row.facts["learned"]["scale"] == steps["nyul"]["scale"]
        assert row.facts["learned"]["patch"] == row.config["training"]["patch"]
    assert len({tuple(row.facts["learned"]["scale"]) for row in rows}) == 3


def test_a_plan_that_the_configuration_brings_is_not_called_one_of_the_round(run_job):
    cohort, _ = ball_cohort(ProjectFactory(), 4, folds=2, fractions={"test": 0})
    network = {
        "name": "nnunet",
        "features": 4,
        "kernels": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    }
    made = done(begun(cohort, {**changed(epochs=1), "network": network}), run_job)
    assert [row.facts["learned"] for row in ValidationRound.objects.filter(cross_validation=made)] == [{}, {}]


def test_early_stopping_looks_at_patients_of_the_rounds_own_training_side(run_job, given):
    cohort, _ = ball_cohort(ProjectFactory(), 8, folds=2, fractions={"test": 0})
    done(begun(cohort, changed(early_stopping=1, epochs=3)), run_job)
    for fold, (learned, looked_at) in enumerate(given):
        test = set(Case.objects.filter(cohort=cohort, cohort_patient__fold=fold).values_list("name", flat=True))
        every = set(cohort.cases.values_list("name", flat=True))
        assert looked_at
        assert learned | looked_at == every - test
        assert not learned & looked_at


def test_a_case_that_the_network_cannot_be_run_on_is_told_and_stops_nothing(run_job, monkeypatch):
    cohort, _ = ball_cohort(
        ProjectFactory(), 6, maker=lambda seed: "East" if seed < 2 else "West", folds=3, fractions={"test": 0}
    )
    wrong = Case.objects.filter(cohort=cohort).order_by("name").first()
    wrong.image.modality = "MR"
    wrong.image.save(update_fields=["modality"])
    made = done(begun(cohort, changed()), run_job)
    parts = made.summary["schemes"]["folds"]["rounds"]
    failed = [entry for part in parts for entry in part["failed"]]
    assert [entry["case"] for entry in failed] == [wrong.name]
    assert failed[0]["cause"] == "The image is MR, the model works on CT."
    assert made.summary["schemes"]["folds"]["structures"]["Ball"]["dice"]["n"] == 5


def test_a_round_may_train_several_networks_that_answer_together(run_job, given):
    cohort, _ = ball_cohort(ProjectFactory(), 4, folds=2, fractions={"test": 0})
    made = done(begun(cohort, changed(epochs=1, networks=2)), run_job)
    assert len(given) == 4
    assert given[0] == given[1] != given[2] == given[3]
    parts = made.summary["schemes"]["folds"]["rounds"]
    assert [part["epochs"] for part in parts] == [2, 2]  # of both networks
    assert made.summary["schemes"]["folds"]["structures"]["Ball"]["dice"]["n"] == 4


def test_what_makes_no_sense_is_refused_in_words():
    cohort, reference = ball_cohort(ProjectFactory(), 4)
    with pytest.raises(TrainingError, match="not frozen in folds"):
        begun(cohort, changed())
    with pytest.raises(ConfigError, match=r"baselines: the classical methods tell classes apart"):
        config.check(changed(rounds={"baselines": ["svm"]}))
    with pytest.raises(ConfigError, match=r"cross_validation\.source: missing"):
        config.check(changed(rounds={"schemes": ["sources"]}))
    with pytest.raises(TrainingError, match="come from one source only"):
        begun(cohort, changed(rounds={"schemes": ["sources"], "source": "manufacturer"}))
    with pytest.raises(TrainingError, match="No rounds are chosen"):
        begun(cohort, changed(rounds={"schemes": []}))
    with pytest.raises(TrainingError, match="for segmentation and classification"):
        begun(cohort, {"name": "boxes", "task": "detection", "training": {"patch": [16, 16, 16]}})
    with pytest.raises(TrainingError, match="no structure 'Liver'"):
        begun(cohort, {**changed(), "data": {"structures": ["Liver"]}})
    open_cohort, _ = ball_cohort(cohort.project, 4, name="Open", freeze=False)
    with pytest.raises(TrainingError, match="not frozen, so it has no folds yet"):
        begun(open_cohort, changed())
    assert partitions.folds_of(cohort) == []
    assert reference.cohort_id == cohort.pk


def test_a_structure_that_few_show_is_never_lost_to_early_stopping():
    _, reference = ball_cohort(ProjectFactory(), 10)
    entries = list(reference.case_labels.select_related("case__cohort_patient").order_by("case_id"))
    for rare in entries:
        shown = {entry.case_id: {1, 2} if entry is rare else {1} for entry in entries}
        for seed in range(5):
            learn, validate = outline_rounds._inner_split(entries, shown, seed)
            assert rare in learn
            assert len(validate) in (1, 2)
            assert {entry.pk for entry in learn + validate} == {entry.pk for entry in entries}
