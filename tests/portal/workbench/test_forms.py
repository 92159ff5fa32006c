"""Training, running and evaluating from the browser: the same services as the commands, errors beside the fields."""

from __future__ import annotations

import html
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from inference.evaluation.models import Evaluation
from inference.jobs.models import Job
from inference.training import config as schema
from inference.training.models import CrossValidation, TrainingRun
from portal.accounts.models import Role
from portal.workbench.training_form import TrainingForm, initial_of
from tests.factories import ProjectFactory, member
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.class_factory import shape_cohort
from tests.inference.models_factory import ball_cohort, threshold_version

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("media")]

TOML = """
name = "balls"
description = "Finds balls."
[data]
structures = ["Ball"]
[network]
name = "unet"
channels = [4, 8]
strides = [2]
[training]
patch = [8, 16, 24]
epochs = 7
max_minutes = 2.5
learning_rate = 0.0025
[augmentation]
flip = ["x", "y"]
[[preprocessing]]
name = "window"
lower = -100.0
upper = 300.0
"""


def filled(config: schema.Config, **more) -> dict:
    return {name: value for name, value in initial_of(config).items() if value is not None} | more


def errors(page: str) -> list[str]:
    found = re.findall(r'<span class="error"[^>]*><svg.*?</svg>(.*?)</span>', page, re.S)
    return [html.unescape(text) for text in found]


def test_every_key_of_the_configuration_survives_the_form(project):
    """TOML → form → configuration gives the configuration of the TOML, whatever the keys are."""
    cohort, _ = ball_cohort(project, 4)
    user = member(project, Role.ENGINEER)
    config = schema.parse(TOML)
    form = TrainingForm(filled(config, cohort=cohort.pk), user=user, project=None)
    assert form.is_valid(), form.errors
    assert form.cleaned_data["config"] == config


def test_training_starts_and_leads_to_its_job(browser, project):
    cohort, reference = ball_cohort(project, 4)
    client = browser(Role.ENGINEER)
    assert cohort.name in client.get(f"/training/new/?cohort={cohort.pk}").content.decode()
    answer = client.post("/training/new/", filled(schema.parse(TOML), cohort=cohort.pk, reference=reference.pk))
    assert answer.status_code == 302, errors(answer.content.decode())
    run = TrainingRun.objects.get()
    assert answer["Location"] == f"/jobs/{run.job_id}/"
    assert (run.reference, run.config["training"]["epochs"], run.job.queue) == (reference, 7, "train")
    page = client.get(answer["Location"]).content.decode()
    assert "8 × 16 × 24 voxels" in page
    assert "7 epochs or 2.5 min" in page


def test_wrong_values_are_said_beside_their_fields(browser, project):
    cohort, _ = ball_cohort(project, 4)
    wrong = {
        "name": "two words",
        "training.epochs": "many",
        "training.patch": "9 16 24",
        "network.parameters": "channels = [4,",
        "preprocessing": '[[preprocessing]]\nname = "sharpen"',
    }
    client = browser(Role.ENGINEER)
    answer = client.post("/training/new/", filled(schema.parse(TOML), cohort=cohort.pk) | wrong)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "This is not TOML" in " ".join(errors(page))
    wrong["network.parameters"] = "channels = [4, 8]\nstrides = [2]"
    page = client.post("/training/new/", filled(schema.parse(TOML), cohort=cohort.pk) | wrong).content.decode()
    said = " ".join(errors(page))
    assert "'two words' is not allowed; it must be a name" in said
    assert "'many' is not allowed; it must be a whole number" in said
    assert "there is no step 'sharpen'" in said
    assert page.count('aria-invalid="true"') == 3
    assert '<details class="card advanced" open>' in page
    assert not TrainingRun.objects.exists()


def test_rules_between_keys_are_said(browser, project):
    cohort, _ = ball_cohort(project, 4)
    data = filled(schema.parse(TOML), cohort=cohort.pk) | {"training.patch": "9 16 24"}
    page = browser(Role.ENGINEER).post("/training/new/", data).content.decode()
    assert "needs multiples of 2 on every axis" in " ".join(errors(page))


def test_cohort_is_required_and_has_to_be_frozen(browser, project):
    ball_cohort(project, 4)
    loose, _ = ball_cohort(project, 2, name="Loose", freeze=False)
    client = browser(Role.ENGINEER)
    page = client.post("/training/new/", filled(schema.parse(TOML))).content.decode()
    assert "Choose the cohort to train on." in errors(page)
    assert client.post("/training/new/", filled(schema.parse(TOML), cohort=loose.pk)).status_code == 422
    assert "Loose" not in client.get("/training/new/").content.decode()


def test_reference_of_another_cohort_is_refused(browser, project):
    cohort, _ = ball_cohort(project, 4)
    _, other = ball_cohort(project, 4, name="Others")
    data = filled(schema.parse(TOML), cohort=cohort.pk, reference=other.pk)
    page = browser(Role.ENGINEER).post("/training/new/", data).content.decode()
    assert "This reference standard belongs to Others." in errors(page)


def test_cohorts_of_other_projects_are_neither_offered_nor_taken(browser, project):
    ball_cohort(project, 4)
    foreign, _ = ball_cohort(ProjectFactory(), 4, name="Foreign")
    client = browser(Role.ENGINEER)
    assert "Foreign" not in client.get("/training/new/").content.decode()
    assert client.post("/training/new/", filled(schema.parse(TOML), cohort=foreign.pk)).status_code == 422
    assert not TrainingRun.objects.exists()


def test_uploaded_toml_fills_the_form_and_starts_nothing(browser, project):
    cohort, _ = ball_cohort(project, 4)
    client = browser(Role.ENGINEER)
    file = SimpleUploadedFile("balls.toml", TOML.encode())
    page = client.post("/training/new/", {"fill": "yes", "toml": file, "cohort": cohort.pk}).content.decode()
    assert 'value="8 16 24"' in page
    assert 'value="0.0025"' in page
    assert "The form shows balls.toml now" in page
    assert not TrainingRun.objects.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "This is not TOML"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b'name = "x"\n[training]\npatch = [8]\nepoch = 3', "training.epoch: there is no such key"),
        (b"#" * 300_000, "larger than 256 kB"),
    ],
)
def test_bad_toml_is_refused_in_words(browser, project, content, words):
    ball_cohort(project, 4)
    answer = browser(Role.ENGINEER).post(
        "/training/new/", {"fill": "yes", "toml": SimpleUploadedFile("my.toml", content)}
    )
    assert answer.status_code == 422
    assert words in html.unescape(answer.content.decode())


def test_version_is_run_on_a_cohort_and_on_selected_studies(browser, project):
    cohort, _ = ball_cohort(project, 4)
    version = threshold_version(project)
    client = browser(Role.ENGINEER)
    answer = client.post("/runs/new/", {"version": version.pk, "where": "cohort", "cohort": cohort.pk, "split": "test"})
    job = Job.objects.latest("id")
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert job.parameters == {"version": version.pk, "cohort": cohort.pk, "split": "test"}
    studies = [case.study_id for case in cohort.cases.all()[:2]]
    page = client.get("/runs/new/?" + "&".join(f"study={pk}" for pk in studies)).content.decode()
    assert "2 selected" in page
    chosen = ",".join(map(str, studies))
    client.post("/runs/new/", {"version": version.pk, "where": "studies", "studies": chosen, "priority": "urgent"})
    assert Job.objects.latest("pk").priority == Job.Priority.URGENT
    assert sorted(Job.objects.latest("id").parameters["studies"]) == sorted(studies)


def test_studies_of_another_tenant_are_left_out_of_a_run(browser, project):
    foreign, _ = ball_cohort(ProjectFactory(), 2, name="Foreign", freeze=False)
    version = threshold_version(project)
    theirs = str(foreign.cases.first().study_id)
    client = browser(Role.ENGINEER)
    assert f"Study {theirs}" not in client.get(f"/runs/new/?study={theirs}").content.decode()
    answer = client.post("/runs/new/", {"version": version.pk, "where": "studies", "studies": theirs})
    assert answer.status_code == 422
    assert "No study is selected" in " ".join(errors(answer.content.decode()))
    assert not Job.objects.exists()


def test_version_is_evaluated_on_the_test_patients(browser, project):
    cohort, reference = ball_cohort(project, 4)
    version = threshold_version(project)
    data = {"version": version.pk, "cohort": cohort.pk, "reference": "", "split": "test"}
    answer = browser(Role.ENGINEER).post("/evaluations/new/", data)
    made = Evaluation.objects.get()
    assert answer["Location"] == f"/jobs/{made.job_id}/"
    assert (made.reference, made.split, made.version) == (reference, "test", version)


def test_unfrozen_cohort_has_no_test_patients(browser, project):
    cohort, _ = ball_cohort(project, 2, freeze=False)
    version = threshold_version(project)
    data = {"version": version.pk, "cohort": cohort.pk, "split": "test"}
    page = browser(Role.ENGINEER).post("/evaluations/new/", data).content.decode()
    assert "is not frozen" in " ".join(errors(page))
    assert not Evaluation.objects.exists()


def test_service_s_refusal_is_shown(browser, project):
    """The reference standard names no structure of the model: only the service knows."""
    cohort, _ = ball_cohort(project, 4)
    version = threshold_version(project, labels=[{"number": 1, "name": "Spleen"}, {"number": 2, "name": "Liver"}])
    data = {"version": version.pk, "cohort": cohort.pk, "split": "test"}
    answer = browser(Role.ENGINEER).post("/evaluations/new/", data)
    assert answer.status_code == 422
    assert "The evaluation cannot start" in answer.content.decode()


def test_pages_without_anything_to_start_say_what_to_do(browser):
    client = browser(Role.ENGINEER)
    assert "No frozen cohort to train on" in client.get("/training/new/").content.decode()
    assert "No model version to run" in client.get("/runs/new/").content.decode()
    assert "No model version to evaluate" in client.get("/evaluations/new/").content.decode()


def test_a_classifier_is_trained_from_the_form_of_its_reference_standard(browser, project):
    cohort, reference = shape_cohort(project, 8)
    client = browser(Role.ENGINEER)
    page = client.get(f"/training/new/?cohort={cohort.pk}").content.decode()
    assert "Keep what it knows" in page  # strategies in words
    assert "EfficientNet-lite0: few pictures" in page
    assert "Residual U-Net" not in page
    config = schema.check({**SHAPES, "training": {**SHAPES["training"], "class_weights": "balanced", "loss": "focal"}})
    form = TrainingForm(filled(config, cohort=cohort.pk), user=member(project, Role.ENGINEER), project=None)
    assert form.is_valid(), form.errors
    assert form.cleaned_data["config"] == config
    answer = client.post("/training/new/", filled(config, cohort=cohort.pk, action="train"))
    run = TrainingRun.objects.get()
    assert answer["Location"] == f"/jobs/{run.job_id}/"
    assert (run.reference, run.config) == (reference, config)


def test_the_form_follows_the_reference_standard_and_keeps_what_fits(browser, project):
    balls, _ = ball_cohort(project, 4)
    shapes, _ = shape_cohort(project, 8)
    client = browser(Role.ENGINEER)
    typed = filled(schema.parse(TOML), cohort=balls.pk, shown="segmentation", refresh="yes") | {"name": "mine"}
    kept = client.post("/training/new/", typed).content.decode()
    assert 'value="mine"' in kept
    assert 'value="8 16 24"' in kept
    other = client.post("/training/new/", typed | {"cohort": shapes.pk}).content.decode()
    assert "Keep what it knows" in other
    assert 'value="mine"' not in other
    cnn = filled(schema.check(SHAPES), cohort=shapes.pk, shown="classification", refresh="yes")
    resnet = client.post("/training/new/", cnn | {"network.name": "resnet18"}).content.decode()
    assert "channels = [4, 8]" not in resnet.split('id="toml-text"')[0]  # parameters of the other network
    frozen = client.post("/training/new/", cnn | {"training.strategy": "frozen"}).content.decode()
    assert "C of the last layer" in frozen
    assert 'name="training.epochs"' not in frozen  # one last layer is learned, in one step
    back = {name: value for name, value in cnn.items() if name != "training.epochs"}
    assert 'name="training.epochs" value="100"' in client.post("/training/new/", back).content.decode()
    assert not TrainingRun.objects.exists()


def test_the_check_says_problems_cases_and_the_toml_while_somebody_types(browser, project):
    cohort, _ = ball_cohort(project, 4)
    client = browser(Role.ENGINEER)
    data = filled(schema.parse(TOML), cohort=cohort.pk)
    fine = html.unescape(client.post("/training/check/", data).content.decode())
    assert "Ready to start" in fine
    made = re.search(r'<template id="toml-made">(.*?)</template>', fine, re.S)
    assert made
    assert schema.parse(made[1]) == schema.parse(TOML)
    wrong = client.post("/training/check/", data | {"training.epochs": "many"}).content.decode()
    assert 'data-problem="training.epochs"' in wrong
    assert "to correct" in wrong
    assert not TrainingRun.objects.exists()


def test_a_form_that_was_just_opened_is_not_called_wrong(browser, project):
    for name in ("Balls", "More balls"):
        ball_cohort(project, 4, name=name)
    opened = browser(Role.ENGINEER).get("/training/new/").content.decode()
    assert "To begin with" in opened
    assert "Choose the cohort to train on." in opened
    assert "to correct" not in opened


def test_edited_toml_fills_the_form_and_mistakes_keep_what_was_typed(browser, project):
    cohort, _ = ball_cohort(project, 4)
    client = browser(Role.ENGINEER)
    page = client.post("/training/new/", {"fill": "yes", "text": TOML, "cohort": cohort.pk}).content.decode()
    assert 'value="0.0025"' in page
    typed = filled(schema.parse(TOML), cohort=cohort.pk) | {"name": "mine", "fill": "yes", "text": "name = "}
    wrong = client.post("/training/new/", typed)
    assert wrong.status_code == 422
    assert "This is not TOML" in wrong.content.decode()
    assert 'value="mine"' in wrong.content.decode()


def test_deep_learning_against_traditional_is_one_click(browser, project):
    cohort, reference = shape_cohort(project, 8, folds=2, fractions={})
    client = browser(Role.ENGINEER)
    answer = client.post("/training/against-traditional/", {"reference": reference.pk})
    made = CrossValidation.objects.get()
    assert answer["Location"] == f"/cross-validations/{made.pk}/"
    assert made.config["cross_validation"]["baselines"] == ["logistic_regression", "svm", "random_forest", "sparse"]
    page = client.get(answer["Location"]).content.decode()
    assert "Waiting for a worker" in page
    assert page.count("waits") >= 2  # its rounds
    run = TrainingRun.objects.create(
        project=project, name="shapes", config=schema.check(SHAPES), reference=reference, cohort_digest=cohort.digest
    )
    client.post("/training/against-traditional/", {"run": run.pk})
    assert CrossValidation.objects.latest("pk").config["network"] == run.config["network"]
    assert browser(Role.VIEWER).post("/training/against-traditional/", {"run": run.pk}).status_code == 403
    _, theirs = shape_cohort(ProjectFactory(), 4)
    assert client.post("/training/against-traditional/", {"reference": theirs.pk}).status_code == 404


def test_a_cohort_without_folds_says_what_to_do_instead(browser, project):
    _, reference = shape_cohort(project, 8)
    answer = browser(Role.ENGINEER).post("/training/against-traditional/", {"reference": reference.pk})
    assert answer.status_code == 422
    assert "freeze it in folds" in answer.content.decode()
    assert not CrossValidation.objects.exists()


def test_a_segmentation_is_cross_validated_from_the_form(browser, project):
    cohort, reference = ball_cohort(project, 6, folds=3, fractions={"test": 0})
    client = browser(Role.ENGINEER)
    page = client.get(f"/training/new/?cohort={cohort.pk}&reference={reference.pk}").content.decode()
    assert 'value="cross_validate"' in page
    assert 'name="cross_validation.schemes"' in page
    assert 'name="cross_validation.baselines"' not in page
    data = filled(schema.parse(TOML), cohort=cohort.pk)
    assert "Ready to cross-validate" in client.post("/training/check/", data).content.decode()
    answer = client.post("/training/new/", data | {"action": "cross_validate"})
    made = CrossValidation.objects.get()
    assert answer["Location"] == f"/cross-validations/{made.pk}/"
    assert made.config["cross_validation"]["schemes"] == ["folds"]
    assert made.config["task"] == "segmentation"
    shares, _ = ball_cohort(project, 4, name="Shares")
    data = filled(schema.parse(TOML), cohort=shares.pk, action="cross_validate")
    assert "not frozen in folds" in client.post("/training/new/", data).content.decode()
    detector = client.get(f"/training/new/?cohort={cohort.pk}&preset=nodules").content.decode()
    assert 'value="cross_validate"' not in detector
