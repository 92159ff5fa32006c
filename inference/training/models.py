"""A training run: everything needed to say what was trained on what, and to do it again."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.jobs.models import Job
from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User
from studies.cohorts.models import Case, ReferenceStandard
from studies.models import Embargo


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


class CrossValidationQuerySet(models.QuerySet["CrossValidation"]):
    def visible_to(self, user: User) -> CrossValidationQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class CrossValidation(models.Model):
    """A configuration trained and tested in rounds over a frozen cohort; no version comes of it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="cross_validations")
    name = models.CharField(max_length=120)
    config = models.JSONField(help_text="As validated by inference.training.config")
    reference = models.ForeignKey(ReferenceStandard, on_delete=models.PROTECT, related_name="cross_validations")
    cohort_digest = models.CharField(max_length=64)
    environment = models.JSONField(default=dict, blank=True, help_text="Code version, libraries, device")
    job = models.OneToOneField(Job, null=True, on_delete=models.PROTECT, related_name="cross_validation")
    # {"schemes": {scheme: {"methods": {method: figures}, "rounds": […]}}, "confounding": …, "seconds": …}
    summary = models.JSONField(default=dict, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = CrossValidationQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class HeldOutPredictionQuerySet(models.QuerySet["HeldOutPrediction"]):
    def visible_to(self, user: User) -> HeldOutPredictionQuerySet:
        """None of a study while a blinded reading of it is open for the user."""
        seen = self.filter(cross_validation__in=CrossValidation.objects.visible_to(user))
        if user.is_superuser:
            return seen
        return seen.exclude(case__study__in=Embargo.objects.filter(user_id=user.pk).values("study"))


class HeldOutPrediction(models.Model):
    """What a method that had not seen the case's patient said about it."""

    cross_validation = models.ForeignKey(CrossValidation, on_delete=models.CASCADE, related_name="predictions")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="+")
    scheme = models.CharField(max_length=10)
    method = models.CharField(max_length=24)
    round = models.CharField(max_length=80)
    truth = models.CharField(max_length=64)
    probabilities = models.JSONField(default=dict)

    objects = HeldOutPredictionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cross_validation", "case", "scheme", "method"], name="held_out_once_per_scheme_and_method"
            )
        ]


class ValidationRoundQuerySet(models.QuerySet["ValidationRound"]):
    def visible_to(self, user: User) -> ValidationRoundQuerySet:
        return self.filter(cross_validation__in=CrossValidation.objects.visible_to(user))


class ValidationRound(models.Model):
    """A round of a segmentation's cross-validation: what it learned before its fit, and what came of it. A job that
    goes on does not go through a finished one again."""

    cross_validation = models.ForeignKey(CrossValidation, on_delete=models.CASCADE, related_name="rounds")
    scheme = models.CharField(max_length=10)
    name = models.CharField(max_length=80)
    config = models.JSONField(default=dict, blank=True, help_text="As its training patients completed it")
    # {"unseen": [structure, …], "failed": [{"case", "cause", "next_step"}, …], "epochs": …, "problem": "", …}
    facts = models.JSONField(default=dict, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = ValidationRoundQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cross_validation", "scheme", "name"], name="one_round_per_scheme_and_name")
        ]

    def __str__(self) -> str:
        return self.name


class HeldOutResultQuerySet(models.QuerySet["HeldOutResult"]):
    def visible_to(self, user: User) -> HeldOutResultQuerySet:
        """None of a study while a blinded reading of it is open for the user."""
        seen = self.filter(round__in=ValidationRound.objects.visible_to(user))
        if user.is_superuser:
            return seen
        return seen.exclude(case__study__in=Embargo.objects.filter(user_id=user.pk).values("study"))


class HeldOutResult(models.Model):
    """How well a network that had not seen the case's patient outlined a structure in it; the outline is not kept."""

    round = models.ForeignKey(ValidationRound, on_delete=models.CASCADE, related_name="results")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="+")
    structure = models.CharField(max_length=64)
    # As those of an evaluation: {"dice": 0.87, "hd95_mm": 1.4, …}; null where undefined
    values = models.JSONField(default=dict)
    present = models.BooleanField(help_text="The reference holds this structure")
    predicted = models.BooleanField(help_text="The network found this structure")
    score = models.FloatField(null=True, blank=True)

    objects = HeldOutResultQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["round", "case", "structure"], name="held_out_once_per_round_and_structure")
        ]
