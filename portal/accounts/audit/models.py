"""The audit trail: rows are added, and never change. Triggers of the database refuse UPDATE, DELETE and TRUNCATE."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from portal.accounts.models import ApiToken, Project, User
from portal.accounts.permissions import Action, projects_where


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def visible_to(self, user: User) -> AuditQuerySet:
        """Administrators see every row, managers those of their projects, everybody else none."""
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if user.is_superuser and user.only_project is None:
            return self
        # Keys and no join, so that the index of the project is read from its newest row.
        return self.filter(project__in=list(projects_where(user, Action.MANAGE).values_list("pk", flat=True)))


class Outcome(models.TextChoices):
    SUCCESS = "success", "Done"
    DENIED = "denied", "Denied"
    FAILED = "failed", "Failed"


class AuditEvent(models.Model):
    """One row. Users, projects and patients are kept by key without a constraint, so that a row outlives them.

    No column takes free text: patients are named by key only, and `detail` holds codes and numbers (`trail.record`).
    """

    time = models.DateTimeField(db_default=Now())
    user = models.ForeignKey(
        User, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    token = models.ForeignKey(
        ApiToken, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    action = models.CharField(max_length=40)
    object_kind = models.CharField(max_length=40, blank=True, help_text="Model, or name of the route")
    object_id = models.CharField(max_length=64, blank=True)
    project = models.ForeignKey(
        Project, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    patient = models.BigIntegerField(null=True, help_text="Key of the patient's row, never the DICOM identifier")
    address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    outcome = models.CharField(max_length=7, choices=Outcome.choices, default=Outcome.SUCCESS)
    detail = models.JSONField(default=dict)
    # The same for every row that would say again what one row of a window says already; null for rows without window.
    once = models.UUIDField(null=True, unique=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-time", "-id"]
        indexes = [
            models.Index(fields=["-time", "-id"], name="audit_newest_first"),
            models.Index(fields=["user", "-time", "-id"], name="audit_of_user"),
            models.Index(fields=["patient", "-time", "-id"], name="audit_of_patient"),
            models.Index(fields=["project", "-time", "-id"], name="audit_of_project"),
            models.Index(fields=["action", "-time", "-id"], name="audit_of_action"),
            models.Index(fields=["-time", "-id"], name="audit_not_done", condition=~models.Q(outcome="success")),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(outcome__in=Outcome.values), name="audit_outcome_known")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.object_kind} {self.object_id}".strip()
