"""Evaluations: model version × cohort × reference standard, with per-case values and summaries."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.jobs.models import Job
from inference.registry.models import Model, ModelVersion
from portal.accounts.models import Project, User
from studies.cohorts.models import Case, ReferenceStandard, Split
from studies.models import Embargo


class EvaluationQuerySet(models.QuerySet["Evaluation"]):
    def visible_to(self, user: User) -> EvaluationQuerySet:
        return self.filter(version__model__in=Model.objects.filter(project__in=Project.objects.visible_to(user)))


class Evaluation(models.Model):
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="evaluations")
    reference = models.ForeignKey(ReferenceStandard, on_delete=models.PROTECT, related_name="evaluations")
    split = models.CharField(max_length=10, choices=Split.choices, blank=True, help_text="Empty: every case")
    job = models.OneToOneField(Job, null=True, on_delete=models.SET_NULL, related_name="evaluation")
    # {structure: {metric: {"estimate", "lower", "upper", "n", "method"}}}; see inference.evaluation.summary
    summary = models.JSONField(default=dict, blank=True)
    # Patients, sources and scanners shared with the training data: {"patients": 0, "scanners": 1, …}
    overlap = models.JSONField(default=dict, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = EvaluationQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]


class CaseResultQuerySet(models.QuerySet["CaseResult"]):
    def visible_to(self, user: User) -> CaseResultQuerySet:
        """Results of the user's projects; none of a study while a blinded reading of it is open for the user."""
        seen = self.filter(evaluation__in=Evaluation.objects.visible_to(user))
        return seen.exclude(case__study__in=Embargo.objects.filter(user_id=user.pk).values("study"))


class CaseResult(models.Model):
    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="case_results")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="+")
    structure = models.CharField(max_length=64)
    # {"dice": 0.87, "sensitivity": 0.9, …}; null where undefined
    values = models.JSONField(default=dict)
    present = models.BooleanField(help_text="The reference holds this structure")
    predicted = models.BooleanField(help_text="The model found this structure")
    score = models.FloatField(null=True, blank=True)

    objects = CaseResultQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["evaluation", "case", "structure"], name="one_result_per_case_structure")
        ]
