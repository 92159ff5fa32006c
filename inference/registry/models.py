"""Models, their versions (bundles on disk) and the history of promotions."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from portal.accounts.models import Project, User


class ModelQuerySet(models.QuerySet["Model"]):
    def visible_to(self, user: User) -> ModelQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Model(models.Model):
    class Task(models.TextChoices):
        SEGMENTATION = "segmentation", "Segmentation"
        CLASSIFICATION = "classification", "Classification"
        REGRESSION = "regression", "Regression"
        DETECTION = "detection", "Detection"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="models")
    name = models.SlugField(max_length=80)
    description = models.TextField(blank=True)
    task = models.CharField(max_length=14, choices=Task.choices)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = ModelQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="model_name_unique_in_project")]

    def __str__(self) -> str:
        return self.name


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def visible_to(self, user: User) -> ModelVersionQuerySet:
        return self.filter(model__in=Model.objects.visible_to(user))


class Stage(models.TextChoices):
    CANDIDATE = "candidate", "Candidate"
    VALIDATED = "validated", "Validated"
    PRODUCTION = "production", "In production"
    RETIRED = "retired", "Retired"


# From which stage a version may go to which; see inference.registry.services.promote.
TRANSITIONS: dict[str, frozenset[str]] = {
    Stage.CANDIDATE: frozenset({Stage.VALIDATED, Stage.PRODUCTION, Stage.RETIRED}),
    Stage.VALIDATED: frozenset({Stage.PRODUCTION, Stage.RETIRED}),
    Stage.PRODUCTION: frozenset({Stage.VALIDATED, Stage.RETIRED}),
    Stage.RETIRED: frozenset({Stage.VALIDATED, Stage.PRODUCTION}),
}


class ModelVersion(models.Model):
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    stage = models.CharField(max_length=10, choices=Stage.choices, default=Stage.CANDIDATE)
    bundle = models.CharField(max_length=255, help_text="Folder below MEDIA_ROOT/models")
    digest = models.CharField(max_length=64, help_text="SHA-256 over the bundle's files")
    manifest = models.JSONField(help_text="The bundle's manifest as registered; see inference.registry.bundle")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ["model__name", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="version_number_unique"),
            models.CheckConstraint(condition=models.Q(stage__in=Stage.values), name="version_stage_known"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} {self.number}"


class Promotion(models.Model):
    """Who moved a version from one stage to another, when and why. Rows are never changed."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="promotions")
    from_stage = models.CharField(max_length=10, choices=Stage.choices)
    to_stage = models.CharField(max_length=10, choices=Stage.choices)
    reason = models.TextField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]


class CardRevision(models.Model):
    """What people wrote in a version's model card. The newest counts; rows are never changed (a trigger sees to it)."""

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="card_revisions")
    number = models.PositiveIntegerField()
    # {"intended_use": "…", "limits": "…", …}: every section; see inference.registry.card_text
    sections = models.JSONField(default=dict)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["version", "number"], name="card_revision_number_unique")]

    def __str__(self) -> str:
        return f"Card of {self.version}, revision {self.number}"
