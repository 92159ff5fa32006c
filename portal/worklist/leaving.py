"""A study leaves: it is deleted, or goes to another project. What is lost, what forbids it, and doing it.

Reads are kept for ever, frozen cohorts and reference standards never change: a study on which one of these rests stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import Q

from inference.prediction import services as predictions
from inference.prediction.models import Prediction
from inference.routing import services as routing
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from portal.annotation.models import Campaign, Task
from portal.worklist import thumbnails
from studies import removal
from studies.cohorts import services as cohorts
from studies.cohorts.clinical import ClinicalValue
from studies.cohorts.models import Case
from studies.models import Origin, Series, Study
from studies.removal import Contents, RemovalError


@dataclass
class Stakes:
    """What hangs on a study."""

    contents: Contents
    results: int = 0
    annotations: int = 0
    clinical_values: int = 0
    cohorts: list[str] = field(default_factory=list)  # open ones, which it leaves
    obstacles: list[str] = field(default_factory=list)  # sentences; with one of these it stays


def stakes(study: Study) -> Stakes:
    found = Stakes(
        removal.contents(study),
        results=Prediction.objects.filter(study=study).count(),
        clinical_values=ClinicalValue.objects.filter(study=study).count(),
        annotations=Series.objects.filter(study=study, origin=Origin.ANNOTATION).count(),
    )
    cases = Case.objects.filter(study=study).select_related("cohort").order_by("cohort__name", "pk")
    reading = dict(
        Task.objects.filter(case__in=cases, campaign__state__in=[Campaign.State.READING, Campaign.State.PAUSED])
        .order_by("campaign__name")
        .values_list("case", "campaign__name")
    )
    tasks = dict(Task.objects.filter(case__in=cases).order_by("campaign__name").values_list("case", "campaign__name"))
    for case in cases:
        if case.cohort.frozen:
            found.obstacles.append(f"The cohort “{case.cohort}” is frozen, and {case.name} is one of its cases.")
        if case.pk in reading:
            found.obstacles.append(f"The campaign “{reading[case.pk]}” is open and has tasks on it.")
        elif case.pk in tasks:
            found.obstacles.append(f"Reads of the campaign “{tasks[case.pk]}” rest on it; they are kept for ever.")
        if label := case.reference_labels.select_related("reference").first():
            found.obstacles.append(f"The reference standard “{label.reference}” says what it shows.")
        found.cohorts.append(str(case.cohort))
    return found


def delete(study: Study, *, by: User) -> None:
    """Delete for good. Raises RemovalError where it has to stay."""
    cached = thumbnails.of_study(study)
    with transaction.atomic():
        _take_out(study)
        removal.delete(study, cached=cached)


def move(study: Study, project: Project, *, by: User) -> Study:
    """Hand over to another project of which `by` is manager, too; results stay behind, that is, they are deleted.

    Raises RemovalError where it has to stay.
    """
    if not may(by, Action.MANAGE, project):
        raise RemovalError("You are no manager of the other project.", "Choose a project that you manage.")
    with transaction.atomic():
        _take_out(study)
        return removal.move(study, project)


def destinations(study: Study, user: User) -> list[Project]:
    """Where `user` may move a study to."""
    mine = Project.objects.visible_to(user).exclude(pk=study.project_id).order_by("name")
    if not user.is_superuser:
        mine = mine.filter(Q(memberships__user=user, memberships__role="manager"))
    return list(mine)


def _take_out(study: Study) -> None:
    """End what may end: results, and places in open cohorts."""
    Study.objects.select_for_update().filter(pk=study.pk).first()
    if obstacles := stakes(study).obstacles:
        raise RemovalError(obstacles[0], "It stays as long as this holds.")
    for case in Case.objects.filter(study=study).select_related("cohort"):
        cohorts.remove(case)
    routing.forget(study)
    predictions.forget(study)
