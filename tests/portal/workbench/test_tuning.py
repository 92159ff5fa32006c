"""Looking for settings in the browser: the form, a search with its trials, and training with what was found."""

from __future__ import annotations

import json

import pytest

from inference.errors import TrainingError
from inference.jobs.models import Job
from inference.training import services as training
from inference.training.models import TrainingRun
from inference.tuning import services
from inference.tuning.fitting import Judged
from inference.tuning.models import SettingsSearch
from portal.accounts.models import Role
from portal.workbench.tuning_form import varied
from tests.inference.models_factory import CONFIG, ball_cohort

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("media", "broker")]

TOML = """
name = "balls"
[network]
channels = [4, 8]
strides = [2]
[training]
patch = [12, 16, 20]
epochs = 2
"""
SPACE = """
[search]
trials = 3
[search.space]
training.learning_rate = { low = 1e-4, high = 1e-2, log = true }
"""


def figure(value: float) -> dict:
    return {"estimate": value, "lower": value - 0.1, "upper": value + 0.1, "n": 2, "method": "BCa bootstrap"}


def search_of(project, cohort) -> SettingsSearch:
    search = services.start(
        project=project,
        config=CONFIG,
        search={"trials": 4, "space": {"training.learning_rate": {"low": 1e-4, "high": 0.1, "log": True}}},
        cohort=cohort,
        by=None,
    )
    for number, (rate, value) in enumerate(((0.001, 0.61), (0.02, 0.83)), start=1):
        trial = services.open_trial(search, number, {"training.learning_rate": rate})
        services.complete(trial, Judged(value, {"Ball": figure(value)}, 2, 3.0))
    trial = services.open_trial(search, 3, {"training.learning_rate": 0.1})
    services.fail(trial, TrainingError("The loss is not a number any more.", "Lower training.learning_rate."))
    services.open_trial(search, 4, {"training.learning_rate": 0.0005})
    return search


def test_the_form_starts_a_search_or_a_range_test(browser, project):
    cohort, reference = ball_cohort(project, 4)
    engineer = browser(Role.ENGINEER)
    page = engineer.get("/training/settings/?preset=hippocampus").content.decode()
    assert "[search.space]" in page
    answer = engineer.post("/training/settings/", {"cohort": cohort.pk, "toml": TOML + SPACE})
    search = SettingsSearch.objects.get()
    assert answer["Location"] == f"/jobs/{search.job_id}/"
    assert (search.reference, search.search["trials"], search.job.queue) == (reference, 3, "train")
    assert search.created_by.username.startswith("engineer")
    answer = engineer.post("/training/settings/", {"cohort": cohort.pk, "toml": TOML + SPACE, "rate": "yes"})
    job = Job.objects.order_by("pk").last()
    assert (job.kind, answer["Location"]) == ("find_learning_rate", f"/jobs/{job.pk}/")
    assert job.parameters["reference"] == reference.pk


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("name = ", "This is not TOML"),
        (TOML, "search: missing"),
        (TOML + SPACE.replace("1e-2", "100"), "training.learning_rate: 100 is not allowed"),
        (TOML.replace("epochs = 2", "epochs = 0") + SPACE, "training.epochs: 0 is not allowed"),
    ],
)
def test_mistakes_stand_under_the_text_and_nothing_starts(browser, project, toml, words):
    cohort, _ = ball_cohort(project, 4)
    answer = browser(Role.ENGINEER).post("/training/settings/", {"cohort": cohort.pk, "toml": toml})
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Job.objects.exists()


def test_the_page_of_a_search_shows_trials_best_first_with_intervals_and_charts(browser, project):
    cohort, _ = ball_cohort(project, 4)
    search = search_of(project, cohort)
    engineer = browser(Role.ENGINEER)
    page = engineer.get(f"/jobs/{search.job_id}/").content.decode()
    assert page.index("0.830") < page.index("0.610")
    assert "[0.73–0.93]" in page
    assert "The loss is not a number any more. Lower training.learning_rate." in page
    assert page.count("Train with these") == 2  # neither the failed trial nor the one under way
    assert "looks better than it is" in page
    assert "not a medical device" in page
    assert 'data-chart="trials"' in page
    assert 'data-chart="setting0"' in page
    live = json.loads(engineer.get(f"/jobs/{search.job_id}/", headers={"X-Live": "1"}).content)
    assert {"trials", "setting0"} <= {curve["key"] for curve in live["curves"]}
    assert "3 of 4 ended" in live["parts"]["outcome"]
    viewer = browser(Role.VIEWER).get(f"/jobs/{search.job_id}/").content.decode()
    assert "0.830" in viewer
    assert "Train with these" not in viewer


def test_training_starts_with_the_settings_of_the_chosen_trial(browser, project):
    cohort, reference = ball_cohort(project, 4)
    search = search_of(project, cohort)
    engineer = browser(Role.ENGINEER)
    answer = engineer.post(f"/jobs/{search.job_id}/train/", {"trial": "1"})
    run = TrainingRun.objects.get()
    assert answer["Location"] == f"/jobs/{run.job_id}/"
    assert (run.config["training"]["learning_rate"], run.reference) == (0.001, reference)
    assert run.name == f"balls, trial 1 of job {search.job_id}"
    engineer.post(f"/jobs/{search.job_id}/train/")
    assert TrainingRun.objects.latest("pk").config["training"]["learning_rate"] == 0.02  # the best one
    refused = engineer.post(f"/jobs/{search.job_id}/train/", {"trial": "4"}, follow=True).content.decode()
    assert "No trial of this search has ended yet" in refused
    assert TrainingRun.objects.count() == 2


def test_a_range_test_shows_its_curve_and_what_it_suggests(browser, project):
    cohort, _ = ball_cohort(project, 4)
    job = services.start_range_test(project=project, config=CONFIG, cohort=cohort, by=None)
    rates = [1e-5, 1e-4, 1e-3, 1e-2]
    result = {"rates": rates, "losses": [1, 0.9, 0.5, 0.4], "smoothed": [1, 0.9, 0.5, 0.4], "suggested": 1e-3}
    Job.objects.filter(pk=job.pk).update(state="succeeded", result={**result, "reason": "", "config": CONFIG})
    engineer = browser(Role.ENGINEER)
    page = engineer.get(f"/jobs/{job.pk}/").content.decode()
    assert 'data-chart="range"' in page
    assert "the loss falls fastest at 0.001" in page
    assert "Train with it" in page
    Job.objects.filter(pk=job.pk).update(result={**result, "suggested": None, "reason": "The loss never fell."})
    page = engineer.get(f"/jobs/{job.pk}/").content.decode()
    assert "The loss never fell." in page
    assert "Train with it" not in page


def test_over_rest_a_search_is_started_read_and_trained_with(browser, project, django_assert_max_num_queries):
    cohort, _ = ball_cohort(project, 4)
    engineer = browser(Role.ENGINEER)

    def post(url: str, body: dict):
        return engineer.post(url, body, content_type="application/json")

    whose = {"project": project.slug, "cohort": cohort.pk}
    answer = post("/api/settings-searches/", {**whose, "toml": TOML + SPACE})
    assert answer.status_code == 201, answer.json()
    assert answer.json()["search"]["space"]["training.learning_rate"]["log"] is True
    wrong = post("/api/settings-searches/", {**whose, "config": CONFIG, "search": {"space": {"training.seed": [1, 2]}}})
    assert wrong.status_code == 400
    assert "a lucky seed" in wrong.json()["problems"][0]
    rate = post("/api/learning-rates/", {**whose, "config": CONFIG})
    assert (rate.status_code, rate.json()["state"]) == (201, "queued")
    search = search_of(project, cohort)
    found = engineer.get(f"/api/settings-searches/{search.pk}/").json()
    assert (found["best"], [trial["value"] for trial in found["trials"]]) == (2, [0.61, 0.83, None, None])
    trained = post(f"/api/settings-searches/{search.pk}/train/", {})
    assert trained.status_code == 201
    assert trained.json()["config"]["training"]["learning_rate"] == 0.02
    for _ in range(3):
        search_of(project, cohort)
    engineer.get("/api/settings-searches/")
    with django_assert_max_num_queries(8):
        assert engineer.get("/api/settings-searches/").json()["count"] == 5


def test_the_settings_of_the_training_form_of_a_run_or_of_the_usual_preset_are_shown_to_be_varied(browser, project):
    cohort, _ = ball_cohort(project, 4)
    engineer = browser(Role.ENGINEER)
    usual = engineer.get(f"/training/settings/?cohort={cohort.pk}").content.decode()
    assert "task = &quot;classification&quot;" not in usual  # the reference standard holds masks
    run = training.start(project=project, config=CONFIG, cohort=cohort, by=None)
    page = engineer.get(f"/training/settings/?run={run.pk}").content.decode()
    assert "name = &quot;balls&quot;" in page
    assert "[search.space]" in page
    form = engineer.get(f"/training/new/?run={run.pk}").content.decode()
    assert 'formaction="/training/settings/"' in form
    assert f"/cohorts/{cohort.pk}/preprocessing/" in form
    posted = {
        "carry": "yes",
        "cohort": cohort.pk,
        "task": "segmentation",
        "name": "carried",
        "training.patch": "12 16 20",
        "network.parameters": "channels = [4, 8]\nstrides = [2]",
    }
    carried = engineer.post("/training/settings/", posted).content.decode()
    assert "name = &quot;carried&quot;" in carried, carried[:3000]
    assert "[search.space]" in carried
    assert not Job.objects.exclude(pk=run.job_id).exists()


def test_of_a_frozen_classifier_other_settings_are_offered():
    text = varied('name = "x"\n[training]\nstrategy = "frozen"')
    assert "training.regularisation" in text
    assert "learning_rate" not in text
