"""Keys, pseudonyms, sign-offs of pixels, and exports. Rows are written by the services of `studies.deid` only."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.db import models

from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort
from studies.models import Patient, Series, Study


def new_key() -> bytes:
    return secrets.token_bytes(32)


class ProjectKey(models.Model):
    """The secret from which a project's pseudonyms, UIDs and shifts of dates are made. Never shown."""

    project = models.OneToOneField(Project, on_delete=models.PROTECT, related_name="deid_key")
    key = models.BinaryField(default=new_key)


class Pseudonym(models.Model):
    """The way back, for administrators."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="+")
    patient = models.ForeignKey(Patient, on_delete=models.PROTECT, related_name="+")
    value = models.CharField(max_length=40)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "value"], name="pseudonym_unique_in_project")]

    def __str__(self) -> str:
        return self.value


class Lookup(models.Model):
    """That an administrator asked who is behind a pseudonym."""

    pseudonym = models.ForeignKey(Pseudonym, on_delete=models.PROTECT, related_name="lookups")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True)


class PixelReview(models.Model):
    """What a person decided about text in the pixels of a series in which some is suspected."""

    class Decision(models.TextChoices):
        CLEAR = "clear", "No identity in the pixels"
        BLANK = "blank", "Blank the marked places"
        WITHHOLD = "withhold", "Keep the series back"

    series = models.OneToOneField(Series, on_delete=models.CASCADE, related_name="pixel_review")
    reasons = models.JSONField(default=list)
    # [[top, left, bottom, right], …] in pixels
    boxes = models.JSONField(default=list, blank=True)
    number_of_instances = models.PositiveIntegerField(help_text="More images ask for another look")
    decision = models.CharField(max_length=8, choices=Decision.choices, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(null=True, blank=True)


class ExportQuerySet(models.QuerySet["Export"]):
    def visible_to(self, user: User) -> ExportQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Export(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        BLOCKED = "blocked", "Waits for a sign-off"
        DONE = "done", "Ready"
        FAILED = "failed", "Failed"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="exports")
    cohort = models.ForeignKey(Cohort, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    studies = models.ManyToManyField(Study, related_name="+")
    profile = models.CharField(max_length=200)
    nifti = models.BooleanField(default=False)
    state = models.CharField(max_length=8, choices=State.choices, default=State.QUEUED)
    failure = models.TextField(blank=True)
    report = models.JSONField(default=dict, blank=True)
    file = models.CharField(max_length=120, blank=True, help_text="Zip below MEDIA_ROOT")
    size = models.PositiveBigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ExportQuerySet.as_manager()

    def __str__(self) -> str:
        return f"export {self.pk}"
