"""A search for settings and its trials: everything that is needed to go on after a kill."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.jobs.models import Job
from portal.accounts.models import Project, User
from studies.cohorts.models import ReferenceStandard


class SettingsSearchQuerySet(models.QuerySet["SettingsSearch"]):
    def visible_to(self, user: User) -> SettingsSearchQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class SettingsSearch(models.Model):
    """Trials of a configuration with other settings, judged on the validation patients of a frozen cohort."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="settings_searches")
    name = models.CharField(max_length=120)
    config = models.JSONField(help_text="As validated by inference.training.config; the trials start from it")
    search = models.JSONField(help_text="As validated by inference.tuning.space")
    reference = models.ForeignKey(ReferenceStandard, on_delete=models.PROTECT, related_name="settings_searches")
    cohort_digest = models.CharField(max_length=64)
    environment = models.JSONField(default=dict, blank=True, help_text="Code version, libraries, device")
    job = models.OneToOneField(Job, null=True, on_delete=models.PROTECT, related_name="settings_search")
    finished_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = SettingsSearchQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Trial(models.Model):
    class State(models.TextChoices):
        RUNNING = "running", "Running"
        COMPLETE = "complete", "Complete"
        PRUNED = "pruned", "Given up early"
        FAILED = "failed", "Failed"

    search = models.ForeignKey(SettingsSearch, on_delete=models.CASCADE, related_name="trials")
    number = models.PositiveIntegerField(help_text="From 1")
    state = models.CharField(max_length=10, choices=State.choices, default=State.RUNNING)
    values = models.JSONField(help_text="Key of the configuration: value")
    value = models.FloatField(null=True, blank=True, help_text="Mean validation figure; higher is better")
    figures = models.JSONField(default=dict, blank=True, help_text="Structure or class: figure with interval")
    curve = models.JSONField(default=dict, blank=True, help_text="Epoch: mean validation figure")
    epochs = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0)
    cause = models.TextField(blank=True, help_text="Why it failed, in words")
    next_step = models.TextField(blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["search", "number"], name="trial_number_once"),
            models.CheckConstraint(
                condition=models.Q(state__in=["running", "complete", "pruned", "failed"]), name="trial_state_known"
            ),
            models.CheckConstraint(
                condition=~models.Q(state="complete") | models.Q(value__isnull=False), name="complete_trial_has_value"
            ),
        ]

    def __str__(self) -> str:
        return f"trial {self.number}"
