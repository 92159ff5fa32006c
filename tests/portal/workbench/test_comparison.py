"""Training runs side by side: what differs, figures on the same cases, curves; and the list to choose them from."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from inference.jobs.models import Job, JobMetric
from inference.training.config import check
from inference.training.models import TrainingRun
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.portal.rows import cohort_row, entry, evaluation_row, study_row, version_row

pytestmark = pytest.mark.django_db
BASE = {"name": "organs", "training": {"patch": [16, 16, 16], "epochs": 3}}


def run_of(reference, *, number: int, losses: list[float], code: str = "aaaa", digest: str = "d" * 64, **training):
    project = reference.cohort.project
    job = Job.objects.create(project=project, task="inference.training.tasks.train", title="Train", state="succeeded")
    for step, loss in enumerate(losses, start=1):
        JobMetric.objects.create(job=job, attempt=1, name="train_loss", step=step, value=loss)
        JobMetric.objects.create(job=job, attempt=1, name="memory_gb", step=step, value=step / 2)
    version = version_row(project, number=number)
    version.manifest["training"] = {
        "epochs": len(losses), "seconds": 60.0, "training_cases": 4, "training_patients": 4,
        "validation_dice": {"Liver": entry(0.8, 0.7, 0.9, 5)},
    }  # fmt: skip
    version.save()
    return TrainingRun.objects.create(
        project=project,
        name=f"organs {number}",
        config=check({**BASE, "training": {**BASE["training"], **training}}),
        reference=reference,
        cohort_digest=digest,
        environment={"code": code, "torch": "2.13.0"},
        job=job,
        version=version,
    )


@pytest.fixture
def world():
    project = ProjectFactory()
    _, reference = cohort_row(project, [study_row(project) for _ in range(4)])
    return project, reference


def test_what_differs_is_shown_and_the_rest_on_demand(client, world):
    project, reference = world
    one = run_of(reference, number=1, losses=[1.0, 0.5], learning_rate=0.001)
    two = run_of(reference, number=2, losses=[0.9, 0.25], learning_rate=0.01, code="bbbb")
    client.force_login(member(project, Role.VIEWER))
    address = f"/training/compare/?run={two.pk}&run={one.pk}"
    page = client.get(address).content.decode()
    settings = page.split("<h2>Settings</h2>")[1].split("Where they come from")[0]
    assert "training.learning_rate" in settings
    assert "training.epochs" not in settings
    assert "training.epochs" in client.get(f"{address}&settings=all").content.decode()
    assert "different versions of the code" in page
    assert "different cohorts" not in page
    assert page.index("organs 2") < page.index("organs 1")
    assert "1.0 GB" in page
    assert "0.250 at 2" in page or "0.25 at 2" in page
    assert "[0.700–0.900]" in page


def test_different_cohorts_are_warned_of(client, world):
    project, reference = world
    runs = [run_of(reference, number=n, losses=[1.0], digest=str(n) * 64) for n in (1, 2)]
    client.force_login(member(project, Role.VIEWER))
    page = client.get("/training/compare/?" + "&".join(f"run={run.pk}" for run in runs)).content.decode()
    assert "trained on different cohorts" in page


def test_test_figures_are_compared_on_the_same_cases(client, world):
    """Dice of four cases, the second run better by 0.1, 0.1, 0.2 and 0.2: 0.15 on average."""
    project, reference = world
    runs = [run_of(reference, number=n, losses=[1.0]) for n in (1, 2)]
    for run, dice in zip(runs, ([0.5, 0.6, 0.7, 0.6], [0.6, 0.7, 0.9, 0.8]), strict=True):
        mean = sum(dice) / 4
        summary = {"Liver": {"dice": entry(mean, mean - 0.1, mean + 0.1, 4)}}
        evaluation_row(run.version, reference, summary, dice, split="test")
    client.force_login(member(project, Role.VIEWER))
    told = client.get(f"/training/compare/json/?run={runs[0].pk}&run={runs[1].pk}").json()
    nothing, gained = told["differences"]["Dice, Liver"]
    assert nothing is None
    assert gained["estimate"] == pytest.approx(0.15)
    assert 0.1 - 1e-9 <= gained["lower"] < 0.15 < gained["upper"] <= 0.2 + 1e-9
    assert gained["n"] == 4
    table = client.get(f"/training/compare/csv/?run={runs[0].pk}&run={runs[1].pk}").content.decode()
    assert 'differences,"Dice, Liver"' in table


def test_runs_of_others_do_not_exist_and_one_run_is_too_few(client, world):
    project, reference = world
    mine = run_of(reference, number=1, losses=[1.0])
    other = ProjectFactory()
    _, foreign = cohort_row(other, [study_row(other)])
    theirs = run_of(foreign, number=1, losses=[1.0])
    client.force_login(member(project, Role.ENGINEER))
    assert client.get(f"/training/compare/?run={mine.pk}&run={theirs.pk}").status_code == 404
    assert client.get(f"/training/compare/csv/?run={mine.pk}&run={theirs.pk}").status_code == 404
    assert "Choose two to six runs" in client.get(f"/training/compare/?run={mine.pk}").content.decode()
    assert client.get(f"/training/compare/csv/?run={mine.pk}").status_code == 400
    page = client.get("/training/").content.decode()
    assert f'value="{mine.pk}"' in page
    assert f'value="{theirs.pk}"' not in page
    toml = client.get(f"/training/{mine.pk}/toml/").content.decode()
    assert "patch = [16, 16, 16]" in toml
    assert client.get(f"/training/{theirs.pk}/toml/").status_code == 404


def test_lists_ask_the_database_as_often_for_many_runs_as_for_few(client, world):
    project, reference = world
    made = [run_of(reference, number=n, losses=[1.0]) for n in (1, 2)]
    client.force_login(member(project, Role.ENGINEER))

    def queries(address: str) -> int:
        client.get(address)  # the first look writes an audit row
        with CaptureQueriesContext(
            connection,
        ) as seen:
            assert client.get(address).status_code == 200
        return len(seen)

    few = queries("/training/"), queries("/training/?show=rounds"), queries(_compare(made))
    made += [run_of(reference, number=n, losses=[1.0]) for n in (3, 4, 5, 6)]
    assert (queries("/training/"), queries("/training/?show=rounds"), queries(_compare(made))) == few


def _compare(runs) -> str:
    return "/training/compare/?" + "&".join(f"run={run.pk}" for run in runs)
