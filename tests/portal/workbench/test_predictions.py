"""What a model said, on the page of one result and of a run; series that are chosen by hand."""

from __future__ import annotations

import html
import re

import pytest

from inference.jobs import services
from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.registry.models import ModelVersion
from portal.accounts.models import Role
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.inference.jobs import sample_tasks
from tests.jobs import claimed
from tests.portal.rows import prediction_row, series_row, study_row, version_row

pytestmark = pytest.mark.django_db
CAUTION = "Research use, not a medical device"


def running(project, title: str) -> Job:
    return claimed(services.submit(sample_tasks.mark, project=project, title=title, parameters={}, by=None))


def version(project, task: str, labels: list[dict], **manifest) -> ModelVersion:
    made = version_row(project, name=task, task=task)
    made.manifest = {"task": task, "labels": labels, "inputs": [{"name": "image"}], **manifest}
    made.save()
    return made


def text_of(response) -> str:
    assert response.status_code == 200
    words = re.sub(r"<(script|style|svg).*?</\1>|<[^>]+>", " ", response.content.decode(), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(words))


def classified(project, **values) -> Prediction:
    labels = [{"number": 1, "name": "Effusion"}, {"number": 2, "name": "Oedema"}]
    output = {"activation": "sigmoid", "threshold": 0.5, "thresholds": {"Effusion": 0.3}}
    scores = {"Effusion": 0.41, "Oedema": 0.47}
    return prediction_row(
        version(project, "classification", labels, output=output), study_row(project), scores=scores, **values
    )


def test_each_label_stands_with_its_probability_threshold_and_decision(browser, project):
    page = text_of(browser(Role.VIEWER).get(f"/predictions/{classified(project).pk}/"))
    assert "Effusion 0.410 0.30 counts as present" in page
    assert "Oedema 0.470 0.50 no" in page
    assert CAUTION in page


def test_values_stand_with_their_unit_and_spread(browser, project):
    labels = [{"number": 1, "name": "Age", "unit": "a"}]
    told = {"measure": "standard_deviation", "unit": "", "value": None, "method": "5 members", "samples": 5}
    prediction = prediction_row(
        version(project, "regression", labels), study_row(project),
        values={"Age": {"value": 61.25, "unit": "a", "sd": 2.5}}, uncertainty=told,
    )  # fmt: skip
    page = text_of(browser(Role.VIEWER).get(f"/predictions/{prediction.pk}/"))
    assert "Age 61.25 a SD 2.50" in page
    assert "Method 5 members" in page


def test_findings_stand_with_score_place_and_slices_as_people_count_them(browser, project):
    finding = {"label": "Nodule", "score": 0.873, "corners": [[0, 0, 0], [8, 9, 10]], "centre": [4.0, 4.5, 5.0],
               "size_mm": [8.0, 9.0, 10.0], "slices": [142, 146]}  # fmt: skip
    made = version(project, "detection", [{"number": 1, "name": "Nodule"}])
    study = study_row(project)
    prediction = prediction_row(made, study, scores={"Nodule": 0.873}, findings=[finding])
    page = text_of(browser(Role.VIEWER).get(f"/predictions/{prediction.pk}/"))
    assert "Nodule 0.87 143 to 147 8.0 × 9.0 × 10.0 4.0, 4.5, 5.0" in page
    nothing = prediction_row(made, study_row(project), scores={"Nodule": 0.0})
    assert "Nothing found" in text_of(browser(Role.ENGINEER).get(f"/predictions/{nothing.pk}/"))


def test_structures_stand_with_volume_and_the_method_of_the_uncertainty(browser, project):
    told = {"measure": "mutual_information", "unit": "bit", "value": 0.123, "method": "3 members × 4 mirror images",
            "samples": 12, "over": "voxels of the structures found"}  # fmt: skip
    prediction = prediction_row(
        version_row(project), study_row(project), scores={"Liver": 0.99, "Spleen": 0.12},
        measurements={"Liver": {"volume_ml": 1432.5}, "Spleen": {"volume_ml": 0.0}}, uncertainty=told,
    )  # fmt: skip
    page = text_of(browser(Role.VIEWER).get(f"/predictions/{prediction.pk}/"))
    assert "Liver 1432.50 mL 0.99 yes" in page.replace(",", "").replace("\u202f", "")
    assert "Spleen 0.00 mL 0.12 no" in page
    assert "Mutual information 0.123 bit" in page
    assert "3 members × 4 mirror images" in page


def test_a_result_is_not_there_for_outsiders_and_blinded_readers(browser, project):
    prediction = classified(project)
    outsider = browser(Role.MANAGER, of=ProjectFactory())
    assert outsider.get(f"/predictions/{prediction.pk}/").status_code == 404
    reader = member(project, Role.READER)
    client = browser(Role.READER)
    client.force_login(reader)
    assert client.get(f"/predictions/{prediction.pk}/").status_code == 200
    Embargo.objects.create(user=reader, study=prediction.study, reason="campaign:1")
    assert client.get(f"/predictions/{prediction.pk}/").status_code == 404


def run_of(project, count: int) -> Job:
    job = running(project, "Run organs 1")
    made = version_row(project)
    for _ in range(count):
        prediction_row(made, study_row(project), measurements={"Liver": {"volume_ml": 7.0}}, job=Job(pk=job.pk))
    failed = {"name": "C-9", "state": "failed", "cause": "No series fits the input FLAIR.", "next_step": "Choose it."}
    services.succeed(job.pk, job.claim, {"cases": [failed], "already_there": 2})
    return Job.objects.get(pk=job.pk)


def test_the_results_of_a_run_and_the_cases_without_one_stand_on_one_page(browser, project):
    job = run_of(project, 3)
    client = browser(Role.ENGINEER)
    page = text_of(client.get(f"/jobs/{job.pk}/results/"))
    assert page.count("7.00 mL") == 3
    assert "3 with a result 2 had one before 1 without" in page
    assert "C-9 No series fits the input FLAIR. Choose it." in page
    assert CAUTION in page
    assert f"/jobs/{job.pk}/results/" in client.get(f"/jobs/{job.pk}/").content.decode()


def test_the_results_of_a_run_cost_the_same_for_many_cases(browser, project, django_assert_max_num_queries):
    job = run_of(project, 20)
    client = browser(Role.ENGINEER)
    client.get(f"/jobs/{job.pk}/results/")
    with django_assert_max_num_queries(20):
        client.get(f"/jobs/{job.pk}/results/")


def test_a_run_without_results_says_where_to_look(browser, project):
    job = running(project, "Run organs 1")
    assert "No result yet" in text_of(browser(Role.ENGINEER).get(f"/jobs/{job.pk}/results/"))


INPUTS = [
    {"name": "T1", "modality": ["MR"], "series": {"words": ["t1"]}},
    {"name": "FLAIR", "modality": ["MR"], "series": {"words": ["flair"]}},
]


def two_series(project):
    study = study_row(project, modality="MR")
    study.series.all().delete()
    return study, [series_row(study, modality="MR", series_description=text) for text in ("T1 first", "T1 second", "X")]


def test_the_form_asks_for_the_series_that_it_cannot_choose_and_runs_on_what_was_chosen(browser, project):
    study, (first, second, other) = two_series(project)
    made = version(project, "segmentation", [{"number": 1, "name": "Lesion"}])
    made.manifest["inputs"] = INPUTS
    made.save()
    client = browser(Role.ENGINEER)
    asked = {"version": made.pk, "where": "studies", "studies": str(study.pk), "priority": "normal"}
    answer = client.post("/runs/new/", asked)
    page = html.unescape(answer.content.decode())
    assert answer.status_code == 422
    assert "No series fits the input FLAIR" in page
    assert f'name="input-{study.pk}-1"' in page
    assert not Job.objects.exists()
    # One chosen, the other not: it asks again.
    answer = client.post("/runs/new/", asked | {f"input-{study.pk}-0": second.pk, f"input-{study.pk}-1": ""})
    assert answer.status_code == 422
    chosen = {f"input-{study.pk}-0": second.pk, f"input-{study.pk}-1": other.pk}
    answer = client.post("/runs/new/", asked | chosen)
    assert answer.status_code == 302, answer.content.decode()
    assert Job.objects.get().parameters["by_hand"] == {str(study.pk): {"T1": second.pk, "FLAIR": other.pk}}
    assert first.pk not in Job.objects.get().parameters["by_hand"][str(study.pk)].values()


def test_a_study_that_was_asked_about_does_not_hold_up_the_others(browser, project):
    study, _ = two_series(project)
    made = version(project, "segmentation", [{"number": 1, "name": "Lesion"}])
    made.manifest["inputs"] = INPUTS
    made.save()
    asked = {"version": made.pk, "where": "studies", "studies": str(study.pk), "priority": "normal"}
    untouched = {f"input-{study.pk}-0": "", f"input-{study.pk}-1": ""}
    assert browser(Role.ENGINEER).post("/runs/new/", asked | untouched).status_code == 302
    assert "by_hand" not in Job.objects.get().parameters


def test_series_can_be_chosen_where_the_form_would_not_ask(browser, project):
    study, series = two_series(project)
    made = version(project, "segmentation", [{"number": 1, "name": "Lesion"}])
    client = browser(Role.ENGINEER)
    asked = {"version": made.pk, "where": "studies", "studies": str(study.pk), "priority": "normal"}
    answer = client.post("/runs/new/", asked | {"choose": "1"})
    assert answer.status_code == 422
    assert answer.content.decode().count(f'value="{series[1].pk}"') == 1
    assert not Job.objects.exists()


def test_series_are_chosen_over_rest_too(browser, project):
    study, (first, _, other) = two_series(project)
    made = version(project, "segmentation", [{"number": 1, "name": "Lesion"}])
    made.manifest["inputs"] = INPUTS
    made.save()
    client = browser(Role.ENGINEER)
    asked = {"version": made.pk, "studies": [study.pk], "inputs": {str(study.pk): {"T1": first.pk, "FLAIR": other.pk}}}
    answer = client.post("/api/predictions/run/", asked, "application/json")
    assert answer.status_code == 201, answer.content
    foreign = series_row(study_row(project, modality="MR"))
    asked["inputs"][str(study.pk)]["T1"] = foreign.pk
    answer = client.post("/api/predictions/run/", asked, "application/json")
    assert answer.status_code == 400
    assert "not among the images" in answer.json()["cause"]
