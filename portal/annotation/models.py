"""Campaigns, tasks, drafts, reads and consensus.

Campaign: draft ──start──▶ reading ⇄ paused; reading ──close──▶ closed
Task:     open ──first draft──▶ started ──submit──▶ submitted; open | started ──skip──▶ skipped ──▶ started
          open | started | skipped ──withdraw──▶ withdrawn ──reinstate──▶ open | started
The tables behind this are in `portal.annotation.states`. Drafts, reads and adjudications are append-only; a trigger of
the database refuses to change or delete them.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.registry.models import ModelVersion
from portal.accounts.models import Project, Role, User
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.models import Series


class CampaignQuerySet(models.QuerySet["Campaign"]):
    def visible_to(self, user: User) -> CampaignQuerySet:
        """Managers, engineers and viewers of the project see its campaigns; readers those they read in."""
        if user.is_superuser:
            return self.filter(project__in=Project.objects.visible_to(user))
        sees = Project.objects.filter(
            memberships__user=user, memberships__role__in=[Role.MANAGER, Role.ENGINEER, Role.VIEWER]
        )
        return self.filter(
            models.Q(project__in=sees) | models.Q(pk__in=CampaignReader.objects.filter(user=user).values("campaign"))
        ).filter(project__in=Project.objects.visible_to(user))


class Campaign(models.Model):
    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        READING = "reading", "Reading"
        PAUSED = "paused", "Paused"
        CLOSED = "closed", "Closed"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="campaigns")
    cohort = models.ForeignKey(Cohort, on_delete=models.PROTECT, related_name="campaigns")
    name = models.CharField(max_length=120)
    instructions = models.TextField(blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.DRAFT)
    overlap = models.PositiveSmallIntegerField(default=2, help_text="Readers per case")
    blinded = models.BooleanField(default=True, help_text="Patient identity is withheld from readers")
    ai_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Shown to readers"
    )
    due_date = models.DateField(null=True, blank=True)
    seed = models.PositiveIntegerField(default=1, help_text="Of the assignment and case order")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = CampaignQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="campaign_name_unique_in_project"),
            models.CheckConstraint(
                condition=models.Q(state__in=["draft", "reading", "paused", "closed"]), name="campaign_state_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Question(models.Model):
    class Kind(models.TextChoices):
        YES_NO = "yes_no", "Yes or no"
        CHOICE = "choice", "One of several"
        SCALE = "scale", "Scale 1 to 5"
        NUMBER = "number", "Number"
        TEXT = "text", "Free text"

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="questions")
    position = models.PositiveSmallIntegerField()
    text = models.CharField(max_length=300)
    kind = models.CharField(max_length=6, choices=Kind.choices)
    choices = models.JSONField(default=list, blank=True, help_text="Texts, for “one of several”; ends of a scale")
    required = models.BooleanField(default=True)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["campaign", "position"], name="question_position_unique")]


class SegmentLabel(models.Model):
    """A structure that readers draw."""

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="segment_labels")
    number = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=64)
    color = models.CharField(max_length=7, default="#5acce6")
    required = models.BooleanField(default=False, help_text="A read without it cannot be submitted")

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["campaign", "number"], name="segment_number_unique")]


class CampaignReader(models.Model):
    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="readers")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="campaign_places")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["campaign", "user"], name="reader_once_in_campaign")]


class TaskQuerySet(models.QuerySet["Task"]):
    def visible_to(self, user: User) -> TaskQuerySet:
        """Own tasks; managers see every task of their projects."""
        projects = Project.objects.visible_to(user)
        if user.is_superuser:
            return self.filter(campaign__project__in=projects)
        managed = Project.objects.filter(memberships__user=user, memberships__role=Role.MANAGER)
        return self.filter(models.Q(reader=user) | models.Q(campaign__project__in=managed)).filter(
            campaign__project__in=projects
        )


class Task(models.Model):
    class State(models.TextChoices):
        OPEN = "open", "Open"
        STARTED = "started", "Draft"
        SUBMITTED = "submitted", "Submitted"
        SKIPPED = "skipped", "Skipped"
        WITHDRAWN = "withdrawn", "Withdrawn"

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="tasks")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="tasks")
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reading_tasks")
    position = models.PositiveIntegerField(help_text="Order for this reader")
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    flag = models.TextField(blank=True, help_text="A problem that the reader reported")
    active_seconds = models.PositiveIntegerField(default=0, help_text="Time at the case so far, also between drafts")
    opened_at = models.DateTimeField(null=True, blank=True)
    submitted_at = models.DateTimeField(null=True, blank=True)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["campaign", "case", "reader"], name="one_task_per_case_and_reader"),
            models.CheckConstraint(
                condition=models.Q(state__in=["open", "started", "submitted", "skipped", "withdrawn"]),
                name="task_state_known",
            ),
        ]


class Draft(models.Model):
    """One saved state of unfinished work; append-only, the highest version counts."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="drafts")
    version = models.PositiveIntegerField()
    answers = models.JSONField(default=dict, blank=True, help_text='{"<question id>": value}')
    segmentation = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    segmentation_sop_instance_uid = models.CharField(max_length=64, blank=True)
    active_seconds = models.PositiveIntegerField(default=0)
    digest = models.CharField(max_length=64, help_text="SHA-256 of answers and segmentation, read back after saving")
    saved_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-version"]
        constraints = [models.UniqueConstraint(fields=["task", "version"], name="draft_version_unique")]


class Read(models.Model):
    """A submitted reading; append-only, the highest version counts."""

    task = models.ForeignKey(Task, on_delete=models.PROTECT, related_name="reads")
    version = models.PositiveIntegerField()
    answers = models.JSONField(default=dict, blank=True)
    segmentation = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    segmentation_sop_instance_uid = models.CharField(max_length=64, blank=True)
    active_seconds = models.PositiveIntegerField(default=0)
    digest = models.CharField(max_length=64)
    submitted_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-version"]
        constraints = [models.UniqueConstraint(fields=["task", "version"], name="read_version_unique")]


class Overlap(models.Model):
    """Dice of one segment between two reads of a case; measured once, as reads never change."""

    first = models.ForeignKey(Read, on_delete=models.CASCADE, related_name="+")
    second = models.ForeignKey(Read, on_delete=models.CASCADE, related_name="+")
    number = models.PositiveSmallIntegerField(help_text="Of the segment label")
    dice = models.FloatField(null=True, help_text="Null where neither reader drew the segment")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["first", "second", "number"], name="overlap_measured_once"),
            models.CheckConstraint(condition=models.Q(first__lt=models.F("second")), name="overlap_first_is_older"),
        ]


class Adjudication(models.Model):
    """A manager's decision on a case, before the majority; append-only, the newest counts."""

    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="adjudications")
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="+")
    answers = models.JSONField(default=dict, blank=True, help_text="Only the answers that were decided")
    read = models.ForeignKey(
        Read, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="Whose segmentation counts"
    )
    reason = models.TextField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]


class Consensus(models.Model):
    """The agreed reading of a campaign, published as a reference standard."""

    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="consensuses")
    method = models.CharField(max_length=40, help_text="majority or STAPLE")
    reference = models.OneToOneField(ReferenceStandard, on_delete=models.PROTECT, related_name="consensus")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
