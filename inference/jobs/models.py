"""Job rows: the truth about background work. Written by `inference.jobs.services` only.

queued ──claim──▶ running ──▶ succeeded | failed | cancelled
  ▲                  │
  └──lease ran out───┘        queued ──cancel──▶ cancelled;  failed | cancelled ──retry──▶ queued
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from portal.accounts.models import Project, User


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: User) -> JobQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Job(models.Model):
    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    class Queue(models.TextChoices):
        DEFAULT = "default"
        IO = "io"
        INFER = "infer"
        TRAIN = "train"

    class Priority(models.IntegerChoices):
        """How urgent; one step more for every `JOB_AGEING_SECONDS` in vain (`inference.jobs.order`)."""

        LOW = 0, "Low"
        NORMAL = 1, "Normal"
        URGENT = 2, "Urgent"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="jobs")
    task = models.CharField(max_length=120, help_text="Registered task name")
    title = models.CharField(max_length=200, help_text="What people read; no identity")
    queue = models.CharField(max_length=10, choices=Queue.choices)
    parameters = models.JSONField(default=dict, blank=True, help_text="Primary keys and plain settings")
    priority = models.PositiveSmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    queued_at = models.DateTimeField(db_default=Now(), help_text="Waits since; a lost attempt keeps its place")
    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=3)
    attempts_before_retry = models.PositiveSmallIntegerField(default=0, help_text="Attempts that no longer count")
    enqueued_at = models.DateTimeField(null=True, blank=True, help_text="Last handed to the broker")
    claim = models.UUIDField(null=True, blank=True, help_text="Token of the attempt that may write")
    worker = models.CharField(max_length=120, blank=True)
    memory = models.BigIntegerField(null=True, blank=True, help_text="Most bytes that its process was seen to hold")
    lease_until = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    progress = models.FloatField(default=0, help_text="0 to 1")
    progress_text = models.CharField(max_length=200, blank=True)
    error_class = models.CharField(max_length=120, blank=True)
    cause = models.TextField(blank=True)
    next_step = models.TextField(blank=True)
    result = models.JSONField(default=dict, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="jobs")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["state", "lease_until"]),
            models.Index(fields=["project", "-id"]),
            models.Index(fields=["queue", "queued_at"], condition=models.Q(state="queued"), name="job_waiting"),
            models.Index(fields=["queue", "finished_at"], name="job_served"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=["queued", "running", "succeeded", "failed", "cancelled"]),
                name="job_state_known",
            ),
            models.CheckConstraint(condition=models.Q(priority__in=[0, 1, 2]), name="job_priority_known"),
            models.CheckConstraint(
                condition=~models.Q(state="running") | models.Q(claim__isnull=False, lease_until__isnull=False),
                name="running_job_has_lease",
            ),
        ]

    def __str__(self) -> str:
        return f"job {self.pk}: {self.title}"

    @property
    def ended(self) -> bool:
        return self.state in (self.State.SUCCEEDED, self.State.FAILED, self.State.CANCELLED)

    @property
    def is_cancelable(self) -> bool:
        return not self.ended and not self.cancel_requested

    @property
    def is_retryable(self) -> bool:
        return self.state in (self.State.FAILED, self.State.CANCELLED)

    @property
    def can_change_priority(self) -> bool:
        return self.state == self.State.QUEUED

    @property
    def attempts_left(self) -> int:
        return self.max_attempts - (self.attempt - self.attempts_before_retry)

    @property
    def kind(self) -> str:
        """The task's own name, as `train` of `inference.training.tasks.train`."""
        return self.task.rsplit(".", 1)[-1]

    @property
    def seconds_running(self) -> float | None:
        """Of the present or last attempt."""
        if self.started_at is None:
            return None
        return max(((self.finished_at or timezone.now()) - self.started_at).total_seconds(), 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the progress so far; None where too little is done to tell."""
        running = self.seconds_running
        if self.state != self.State.RUNNING or running is None or running < 2 or self.progress < 0.01:
            return None
        return running * (1 - self.progress) / self.progress


class JobLogLine(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField(auto_now_add=True)
    attempt = models.PositiveSmallIntegerField()
    level = models.CharField(max_length=8, default="info")  # info, warning, error; event: of the job's own life
    text = models.TextField()

    class Meta:
        ordering = ["id"]


class JobMetric(models.Model):
    """One point of a live curve."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="metrics")
    attempt = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=60)
    step = models.IntegerField()
    value = models.FloatField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["job", "name", "step"])]
