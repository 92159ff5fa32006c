"""A project with three readers, a manager and a cohort of small CT cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from portal.accounts.models import Project, Role, User
from portal.annotation import campaigns, reading, segmentations
from portal.annotation.design import QuestionSpec, SegmentSpec
from portal.annotation.models import Campaign, Task
from studies.cohorts import services as cohorts
from studies.cohorts.models import Cohort
from studies.dicom import segmentation
from studies.ingest import store
from studies.models import ImportBatch, Instance, Origin
from studies.volumes import source_datasets
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

SHAPE = (3, 32, 40)  # of make_ct_series


@dataclass
class World:
    project: Project
    manager: User
    alice: User
    bob: User
    carol: User
    engineer: User
    viewer: User
    outsider: User
    cohort: Cohort

    @property
    def readers(self) -> list[User]:
        return [self.alice, self.bob, self.carol]

    def campaign(self, *, started: bool = True, **overrides: Any) -> Campaign:
        values: dict[str, Any] = {
            "project": self.project,
            "by": self.manager,
            "name": "Nodules",
            "cohort": self.cohort,
            "readers": [self.alice, self.bob],
            "overlap": 2,
            "questions": [
                QuestionSpec("Nodule?", "yes_no"),
                QuestionSpec("Suspicion", "scale", required=False),
            ],
            "segments": [SegmentSpec(1, "Nodule")],
        }
        made = campaigns.create(**(values | overrides))
        return campaigns.start(made, by=self.manager) if started else made


@pytest.fixture(autouse=True)
def _media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def world(db) -> World:
    project = ProjectFactory(name="Thorax")
    people = {
        "manager": member(project, Role.MANAGER, username="manager"),
        "alice": member(project, Role.READER, username="alice"),
        "bob": member(project, Role.READER, username="bob"),
        "carol": member(project, Role.READER, username="carol"),
        "engineer": member(project, Role.ENGINEER, username="engineer"),
        "viewer": member(project, Role.VIEWER, username="viewer"),
        "outsider": UserFactory(username="outsider"),
    }
    cohort = cohorts.create(project=project, name="Test cases", by=people["manager"])
    for k in range(3):
        series = make_ct_series(project, PatientID=f"SECRET{k}", PatientName=f"Hidden^Person{k}")
        cohorts.add_studies(cohort, [series.study])
    return World(project=project, cohort=cohort, **people)


def box(x: slice, number: int = 1, *, z: slice = slice(0, 3)) -> np.ndarray:
    """A label map with columns `x` of rows 10 to 20 drawn."""
    drawn = np.zeros(SHAPE, dtype=np.uint8)
    drawn[z, 10:20, x] = number
    return drawn


def draw(task: Task, label_map: np.ndarray) -> Instance:
    """Store a SEG as the task's DICOMweb root would."""
    labels = segmentations.labels_of(task.campaign)
    dataset = segmentation.write(source_datasets(task.case.image), label_map, labels)
    batch = store.open_batch(task.campaign.project, ImportBatch.Source.READING, task.reader)
    outcome = store.store_dataset(
        dataset,
        batch=batch,
        origin=Origin.DRAFT,
        created_by=task.reader,
        provenance=segmentations.provenance(task),
    )
    assert outcome.instance is not None, outcome.reason
    return outcome.instance


def answers_of(task: Task, *values: Any) -> dict[str, Any]:
    """Answers to the campaign's questions in their order; None leaves one out."""
    questions = task.campaign.questions.all()
    return {str(q.pk): v for q, v in zip(questions, values, strict=False) if v is not None}


def submit(task: Task, *values: Any, label_map: np.ndarray | None = None, seconds: int = 60):
    """Save a draft with these answers and submit it."""
    sop = draw(task, label_map).sop_instance_uid if label_map is not None else None
    newest = reading.newest_draft(task)
    saved = reading.save_draft(
        task,
        base_version=newest.version if newest else 0,
        answers=answers_of(task, *values),
        segmentation_sop_uid=sop,
        active_seconds=seconds,
    )
    return reading.submit(task, base_version=saved.record.version)


def task_of(campaign: Campaign, reader: User, case: str = "C-0001") -> Task:
    return Task.objects.select_related("campaign", "case__image", "case__study", "reader").get(
        campaign=campaign, reader=reader, case__name=case
    )
