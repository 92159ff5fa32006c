"""The preview of preprocessing in the browser: started, followed, and seen by those alone who may see the series."""

from __future__ import annotations

import html
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from inference.errors import PreprocessingError
from inference.jobs.models import Job
from inference.training import previews
from inference.training.tasks import preview_preprocessing
from portal.accounts.models import Role
from studies.dicom.volume import Volume
from tests.factories import ProjectFactory, member
from tests.inference.models_factory import ball_cohort, ball_map, ball_series
from tests.jobs import execute

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media", "broker")]

STEPS = """
[[preprocessing]]
name = "scale"
offset = 1100.0
[[preprocessing]]
name = "n4"
iterations = 5
[[preprocessing]]
name = "crop_foreground"
above = 1250
margin = 2
[[preprocessing]]
name = "normalise"
"""


def previewed(client, series, steps: str = STEPS) -> str:
    """The address of a preview whose job has run."""
    answer = client.post(f"/series/{series.pk}/preprocessing/", {"steps": steps})
    assert answer.status_code == 302, answer.content.decode()
    job = Job.objects.latest("pk")
    execute(job, preview_preprocessing.body)
    return answer["Location"]


def test_a_preview_shows_every_step_with_slices_histograms_and_what_does_not_suit(browser, project):
    series = ball_series(project, 1, ball_map(1))
    engineer = browser(Role.ENGINEER)
    first = engineer.get(f"/series/{series.pk}/preprocessing/").content.decode()
    assert "clip_percentile" in first  # the usual steps to begin with
    assert "not meant for this" in first  # n4 on CT, in the list of steps
    address = previewed(engineer, series)
    page = engineer.get(address).content.decode()
    job = Job.objects.latest("pk")
    assert (job.state, job.queue) == ("succeeded", "default"), job.cause
    names = [stage["name"] for stage in job.result["stages"]]
    assert names == ["stored image", "scale", "n4", "crop_foreground", "normalise"], job.result["problem"]
    assert "step 2 (n4) is meant for MR, and there are images of modality CT" in page
    assert "12 × 16 × 20" in page
    assert 'data-chart="histogram-before"' in page
    assert 'data-chart="histogram-after"' in page
    assert "not a medical device" in page
    assert "Ball^" not in page
    pictures = json.loads(page.split('id="pictures" type="application/json">')[1].split("</script>")[0])
    assert len(pictures) == 12
    before = engineer.get(pictures[5]["before"])
    assert before["Content-Type"] == "image/png"
    assert "private" in before["Cache-Control"]
    assert Image.open(io.BytesIO(b"".join(before.streaming_content))).size == (20, 16)
    after = Image.open(io.BytesIO(b"".join(engineer.get(pictures[5]["after"]).streaming_content)))
    assert np.asarray(after.getchannel("A")).min() == 0  # what was cut away is transparent
    assert f"/series/{series.pk}/preprocessing/?job={job.pk}" in engineer.get(f"/jobs/{job.pk}/").content.decode()


def test_a_step_that_cannot_be_done_is_told_in_words_beside_the_steps_before_it(browser, project):
    series = ball_series(project, 1, ball_map(1))
    engineer = browser(Role.ENGINEER)
    address = previewed(
        engineer,
        series,
        '[[preprocessing]]\nname = "median"\n[[preprocessing]]\nname = "crop_foreground"\nabove = 9999',
    )
    page = engineer.get(address).content.decode()
    assert "Step 2 (crop_foreground): No voxel is brighter than 9999" in page
    assert "1 median" in page


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[[preprocessing]]\nname = ", "This is not TOML"),
        ('[[preprocessing]]\nname = "sharpen"', "there is no step"),
        ("[training]\nepochs = 1", "Only [[preprocessing]] tables go here"),
        ("", "There is no step to preview"),
    ],
)
def test_mistakes_stand_under_the_steps_and_no_job_starts(browser, project, steps, words):
    series = ball_series(project, 1, ball_map(1))
    answer = browser(Role.ENGINEER).post(f"/series/{series.pk}/preprocessing/", {"steps": steps})
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Job.objects.exists()


def test_it_is_followed_while_it_runs(browser, project):
    series = ball_series(project, 1, ball_map(1))
    engineer = browser(Role.ENGINEER)
    address = engineer.post(f"/series/{series.pk}/preprocessing/", {"steps": STEPS})["Location"]
    assert "The steps are running" in engineer.get(address).content.decode()
    live = engineer.get(address, headers={"X-Live": "1"})
    assert live.json()["ended"] is False
    assert engineer.get(address, headers={"X-Live": "1", "If-None-Match": live["ETag"]}).status_code == 304


def test_pictures_are_for_those_who_may_see_the_series_now(browser, project):
    series, other = (ball_series(project, seed, ball_map(seed)) for seed in (1, 2))
    address = previewed(browser(Role.ENGINEER), series)
    picture = f"/series/{series.pk}/preprocessing/{Job.objects.get().pk}/after-3.png"
    reader = member(project, Role.READER, username="rita")
    client = browser(Role.VIEWER)
    assert client.get(picture).status_code == 200
    assert client.get(address).status_code == 200
    client.force_login(reader)
    assert client.get(picture).status_code == 200
    assert client.post(address, {"steps": STEPS}).status_code == 403
    # Another series' address does not lead to these pictures, nor to a picture that was not drawn.
    for wrong in (picture.replace(f"/{series.pk}/", f"/{other.pk}/", 1), picture.replace("after", "manifest"),
                  picture.replace("-3.png", "-99.png")):  # fmt: skip
        assert client.get(wrong).status_code == 404
    client.force_login(member(ProjectFactory(), Role.MANAGER, username="elsewhere"))
    assert client.get(picture).status_code == client.get(address).status_code == 404


def test_a_cohort_leads_to_its_cases_and_from_one_to_the_next(browser, project):
    cohort, _ = ball_cohort(project, 4)
    engineer = browser(Role.ENGINEER)
    answer = engineer.get(f"/cohorts/{cohort.pk}/preprocessing/?preset=hippocampus")
    first = cohort.cases.order_by("name", "pk").first()
    assert answer["Location"].startswith(f"/series/{first.image_id}/preprocessing/?cohort={cohort.pk}")
    page = engineer.get(answer["Location"]).content.decode()
    for case in cohort.cases.all():
        assert f"/series/{case.image_id}/preprocessing/?cohort={cohort.pk}" in page
    assert f"/cohorts/{cohort.pk}/preprocessing/" in engineer.get(f"/cohorts/{cohort.pk}/").content.decode()
    assert f"/series/{first.image_id}/preprocessing/" in engineer.get(f"/studies/{first.study_id}/").content.decode()


def test_steps_of_the_training_form_are_shown_and_go_along_to_the_next_case(browser, project):
    cohort, _ = ball_cohort(project, 4)
    engineer = browser(Role.ENGINEER)
    steps = '[[preprocessing]]\nname = "window"\nlower = -7.0\nupper = 11.0'
    answer = engineer.get(f"/cohorts/{cohort.pk}/preprocessing/", {"steps": steps})
    page = html.unescape(engineer.get(answer["Location"]).content.decode())
    assert steps in page
    others = re.findall(r'href="(/series/\d+/preprocessing/\?cohort=\d+&steps=[^"]+)"', page)
    assert len(others) == 4
    for address in others:
        assert steps in html.unescape(engineer.get(address).content.decode())


def test_the_queries_of_the_page_do_not_grow_with_the_cohort(browser, project, django_assert_max_num_queries):
    engineer = browser(Role.ENGINEER)
    for size in (2, 6):
        cohort, _ = ball_cohort(project, size, name=f"Balls {size}", freeze=False)
        address = engineer.get(f"/cohorts/{cohort.pk}/preprocessing/")["Location"]
        engineer.get(address)
        with django_assert_max_num_queries(16):
            assert engineer.get(address).status_code == 200


def test_pictures_are_deleted_after_a_day_and_the_page_says_so(browser, project):
    series = ball_series(project, 1, ball_map(1))
    engineer = browser(Role.ENGINEER)
    address = previewed(engineer, series)
    folder = previews.folder_of(Job.objects.get().pk)
    assert previews.forget_old() == 0
    os.utime(folder, (0, 0))
    assert previews.forget_old() == 1
    assert not folder.exists()
    assert "deleted after a day" in engineer.get(address).content.decode()


def test_what_will_not_fit_into_memory_is_refused_before_the_steps():
    empty = Volume(np.broadcast_to(np.int16(0), (30_000, 10_000, 10_000)))
    with pytest.raises(PreprocessingError, match="3000000 million voxels") as caught:
        previews.check_room(empty)
    assert "smaller series" in caught.value.next_step


def test_the_training_form_tells_while_somebody_types_that_a_step_does_not_suit_the_images(browser, project):
    cohort, _ = ball_cohort(project, 4)
    settings = {
        "cohort": cohort.pk,
        "task": "segmentation",
        "name": "balls",
        "training.patch": "12 16 20",
        "network.parameters": "channels = [4, 8]\nstrides = [2]",
    }
    engineer = browser(Role.ENGINEER)
    steps = '[[preprocessing]]\nname = "n4"'
    page = engineer.post("/training/check/", settings | {"preprocessing": steps}).content.decode()
    assert "step 1 (n4) is meant for MR, and there are images of modality CT" in page
    fine = engineer.post("/training/check/", settings | {"preprocessing": steps.replace("n4", "median")})
    assert "is meant for" not in fine.content.decode()


def test_over_rest_a_preview_is_started_and_its_job_answers_with_every_step(browser, project):
    series = ball_series(project, 1, ball_map(1))
    engineer = browser(Role.ENGINEER)
    body = {"series": series.pk, "steps": [{"name": "median"}, {"name": "normalise"}]}
    answer = engineer.post("/api/preprocessing-previews/", body, content_type="application/json")
    assert (answer.status_code, answer.json()["state"]) == (201, "queued")
    execute(Job.objects.get(), preview_preprocessing.body)
    found = engineer.get(f"/api/jobs/{answer.json()['id']}/").json()["result"]
    assert [stage["name"] for stage in found["stages"]] == ["stored image", "median", "normalise"]
    wrong = engineer.post(
        "/api/preprocessing-previews/", {**body, "steps": [{"name": "blur"}]}, content_type="application/json"
    )
    assert (wrong.status_code, "there is no step 'blur'" in wrong.json()["cause"]) == (400, True)
    elsewhere = ball_series(ProjectFactory(), 2, ball_map(2))
    foreign = engineer.post(
        "/api/preprocessing-previews/", {**body, "series": elsewhere.pk}, content_type="application/json"
    )
    assert foreign.status_code == 404
