"""The page of a segmentation's cross-validation: structures, rounds, the worst cases, what is held back, exports."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference.evaluation.summary import CaseFigures
from inference.jobs.models import Job
from inference.training import crossvalidation, outlines
from inference.training.config import check
from inference.training.models import CrossValidation
from portal.accounts.models import Role
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.inference.models_factory import CONFIG, ball_cohort

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("media")]
TASK = "inference.training.tasks.cross_validate"


def world(project, patients: int = 6, *, folds: int = 3, schemes: tuple[str, ...] = ("folds",)) -> CrossValidation:
    """Every round over: Dice of case number n is n / 10; the last round never learned the dim ball."""
    cohort, reference = ball_cohort(
        project, patients, maker=lambda seed: ("East", "West")[seed % 2], folds=folds, fractions={"test": 0}
    )
    config = check({**CONFIG, "cross_validation": {"schemes": list(schemes), "source": "manufacturer"}})
    job = Job.objects.create(project=project, task=TASK, title="Cross-validate", state="succeeded")
    made = CrossValidation.objects.create(
        project=project, name="balls", config=config, reference=reference, cohort_digest=cohort.digest, job=job
    )
    entries = crossvalidation.entries_of(reference, config)
    dice = {entry.pk: number / 10 for number, entry in enumerate(entries, start=1)}
    rounds = crossvalidation.rounds(config, cohort, entries)
    for scheme, parts in rounds.items():
        for part in parts:
            last = part is parts[-1]
            figures = [
                (
                    entry,
                    {
                        name: CaseFigures(
                            entry.case.name,
                            entry.case.cohort_patient.patient_id,
                            present=True,
                            predicted=dice[entry.pk] > 0.1,
                            score=0.9,
                            values={"dice": 0.0 if last and name == "Dim ball" else dice[entry.pk], "hd95_mm": 2.5},
                        )
                        for name in ("Ball", "Dim ball")
                    },
                )
                for entry in part.test
            ]
            unseen = ["Dim ball"] if last else []
            facts = {"epochs": 7, "seconds": 65.0, "learned": {}, "inner_validation": 0}
            outlines.keep(outlines.begin(made, scheme, part.name), outlines.Judged(figures, [], unseen, facts))
    outlines.finish(made, ["Ball", "Dim ball"], rounds)
    return made


def test_structures_rounds_and_the_worst_cases_stand_on_the_page(client):
    project = ProjectFactory()
    made = world(project)
    client.force_login(member(project, Role.VIEWER))
    address = f"/cross-validations/{made.pk}/"
    page = client.get(address).content.decode()
    assert "0.350" in page  # the mean of 0.1 … 0.6
    assert "n=6" in page
    assert "BCa bootstrap over 6 patients" in page
    assert "2 cases of rounds that never learned it are not counted" in page
    assert "Structure never seen" in page
    assert 'data-chart="dice0"' in page
    assert "ROC" not in page
    assert "Accuracy" not in page
    assert "Research use, not a medical device" in page
    cases = client.get(address).context["rounds"]["tables"][0]["cases"]
    worst = [(row["result"].values["dice"], row["learned"]) for row in cases]
    assert worst[0] == (min(value for value, learned in worst if learned), True)
    assert [value for value, learned in worst if learned] == sorted(value for value, learned in worst if learned)
    assert [learned for _, learned in worst] == [True] * 10 + [False] * 2
    assert f"/studies/{made.reference.cohort.cases.first().study_id}/" in page
    told = client.get(f"{address}json/").json()
    assert told["schemes"]["folds"]["structures"]["Ball"]["dice"]["estimate"] == pytest.approx(0.35)
    assert told["structures"] == ["Ball", "Dim ball"]
    rows = client.get(f"{address}csv/").content.decode().splitlines()
    assert rows[0].startswith("case,scheme,round,structure,learned,present,predicted,score,dice")
    assert len(rows) == 1 + 6 * 2
    assert sum(row.split(",")[4] == "0" for row in rows[1:]) == 2
    client.force_login(member(ProjectFactory(), Role.MANAGER))
    assert client.get(address).status_code == client.get(f"{address}csv/").status_code == 404


def test_sources_are_shown_one_by_one_and_never_pooled(client):
    project = ProjectFactory()
    made = world(project, schemes=("folds", "sources"))
    client.force_login(member(project, Role.VIEWER))
    tables = client.get(f"/cross-validations/{made.pk}/").context["rounds"]["tables"]
    assert [table["title"] for table in tables] == ["by fold", "without East", "without West"]
    assert [table["judged"] for table in tables] == [6, 3, 3]
    assert dict(tables[2]["structures"])["Dim ball"]["dice"]["reason"] == "never seen in training"


def test_cases_of_an_open_blinded_reading_are_held_back(client):
    project = ProjectFactory()
    made = world(project)
    reader = member(project, Role.READER)
    Embargo.objects.create(user=reader, study=made.reference.cohort.cases.first().study)
    client.force_login(reader)
    address = f"/cross-validations/{made.pk}/"
    page = client.get(address)
    assert "Cases are held back" in page.content.decode()
    assert len(page.context["rounds"]["tables"][0]["cases"]) == 10
    assert len(client.get(f"{address}csv/").content.decode().splitlines()) == 1 + 5 * 2


def test_more_cases_take_no_more_queries(client):
    counts = []
    for patients in (4, 12):
        project = ProjectFactory()
        made = world(project, patients, folds=2)
        client.force_login(member(project, Role.VIEWER))
        address = f"/cross-validations/{made.pk}/"
        client.get(address)
        with CaptureQueriesContext(connection) as seen:
            client.get(address)
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 12


def test_while_it_runs_the_rounds_that_are_over_are_told(client):
    project = ProjectFactory()
    cohort, reference = ball_cohort(project, 6, folds=3, fractions={"test": 0})
    job = Job.objects.create(
        project=project,
        task=TASK,
        title="Rounds",
        state="running",
        progress=0.4,
        progress_text="round 2 of 3, fold 2: epoch 1 of 2",
        started_at=timezone.now(),
        lease_until=timezone.now() + timedelta(minutes=1),
        claim=uuid4(),
    )
    made = CrossValidation.objects.create(
        project=project, name="b", config=check(CONFIG), reference=reference, cohort_digest=cohort.digest, job=job
    )
    outlines.keep(outlines.begin(made, "folds", "fold 1"), outlines.Judged())
    outlines.begin(made, "folds", "fold 2")
    crossvalidation.note_round(made, "folds", "fold 2")
    client.force_login(member(project, Role.VIEWER))
    page = client.get(f"/cross-validations/{made.pk}/").content.decode()
    assert "round 2 of 3" in page
    assert page.index("Trained and tested") < page.index("fold 2</b>") < page.rindex("Running</span>")
    assert page.count("Trained and tested") == 1
