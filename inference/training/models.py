"""A training run: everything needed to say what was trained on what, and to do it again."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.jobs.models import Job
from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User
from studies.cohorts.models import ReferenceStandard


class TrainingRunQuerySet(models.QuerySet["TrainingRun"]):
    def visible_to(self, user: User) -> TrainingRunQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class TrainingRun(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="training_runs")
    name = models.CharField(max_length=120)
    config = models.JSONField(help_text="As validated by inference.training.config")
    reference = models.ForeignKey(ReferenceStandard, on_delete=models.PROTECT, related_name="training_runs")
    cohort_digest = models.CharField(max_length=64)
    environment = models.JSONField(default=dict, blank=True, help_text="Code version, libraries, device")
    job = models.OneToOneField(Job, null=True, on_delete=models.PROTECT, related_name="training_run")
    version = models.OneToOneField(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="training_run"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = TrainingRunQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name
