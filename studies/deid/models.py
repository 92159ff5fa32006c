"""Sign-offs of pixels, and exports. Written by the services of `studies.deid` only."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort
from studies.models import Series, Study


class PixelReviewQuerySet(models.QuerySet["PixelReview"]):
    def visible_to(self, user: User) -> PixelReviewQuerySet:
        return self.filter(series__in=Series.objects.visible_to(user))

    def waiting(self) -> PixelReviewQuerySet:
        return self.filter(suspected=True, decision="")


class PixelReview(models.Model):
    """What was found when somebody looked for text in the pixels of a series, and what a person decided."""

    class Decision(models.TextChoices):
        CLEAR = "clear", "Nothing identifies the patient"
        BLANK = "blank", "Marked places are blanked"
        WITHHOLD = "withhold", "The series is kept back"

    series = models.OneToOneField(Series, on_delete=models.CASCADE, related_name="pixel_review")
    digest = models.CharField(max_length=64, help_text="Of the images that were looked at: other images ask again")
    looked_at = models.PositiveIntegerField(help_text="Frames in which lines of text were searched for")
    frames = models.PositiveIntegerField(help_text="Frames that the series has")
    suspected = models.BooleanField()
    reasons = models.JSONField(default=list, blank=True)
    # [{"instance": pk, "frame": from 0, "box": [top, left, bottom, right] in pixels, "times": frames with it}, …]
    boxes = models.JSONField(default=list, blank=True)
    # [[instance pk, frame], …] that are shown to the person who decides
    pictures = models.JSONField(default=list, blank=True)
    decision = models.CharField(max_length=8, choices=Decision.choices, blank=True)
    # [[top, left, bottom, right], …] in pixels, of every frame
    blanked = models.JSONField(default=list, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(null=True, blank=True)

    objects = PixelReviewQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(decision="") | models.Q(by__isnull=False, at__isnull=False),
                name="pixel_decision_signed",
            )
        ]

    def __str__(self) -> str:
        return f"pixels of series {self.series_id}"

    @property
    def found_places(self) -> list[list[int]]:
        return [found["box"] for found in self.boxes]


class ExportQuerySet(models.QuerySet["Export"]):
    def visible_to(self, user: User) -> ExportQuerySet:
        return self.filter(project__in=Project.objects.visible_to(user))


class Export(models.Model):
    """Copies without identity: what was ordered, how it went, where the file is.

    queued ──▶ done | blocked | failed;  blocked | failed ──▶ queued;  done ──▶ discarded
    """

    class State(models.TextChoices):
        QUEUED = "queued", "In the making"
        BLOCKED = "blocked", "Waits for a sign-off"
        DONE = "done", "Ready"
        FAILED = "failed", "Failed"
        DISCARDED = "discarded", "File deleted"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="exports")
    cohort = models.ForeignKey(Cohort, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    studies = models.ManyToManyField(Study, related_name="+")
    profile = models.CharField(max_length=250, help_text="basic and options, by their names on the command line")
    remove = models.JSONField(default=list, blank=True, help_text="DICOM keywords that are removed as well")
    keep_private = models.JSONField(default=list, blank=True, help_text="Private attributes that stay")
    nifti = models.BooleanField(default=False)
    results = models.BooleanField(default=False, help_text="Segmentations and reports made here, too")
    state = models.CharField(max_length=9, choices=State.choices, default=State.QUEUED)
    failure = models.TextField(blank=True)
    report = models.JSONField(default=dict, blank=True)
    file = models.CharField(max_length=120, blank=True, help_text="Zip below MEDIA_ROOT")
    size = models.PositiveBigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = ExportQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=["queued", "blocked", "done", "failed", "discarded"]),
                name="export_state_known",
            ),
            models.CheckConstraint(condition=~models.Q(state="done") | ~models.Q(file=""), name="export_done_has_file"),
        ]

    def __str__(self) -> str:
        return f"export {self.pk}"

    @property
    def is_restartable(self) -> bool:
        return self.state in (self.State.BLOCKED, self.State.FAILED)

    @property
    def title(self) -> str:
        """What people read in lists and job titles; no identity."""
        return f"De-identified export {self.pk}" + (f" of {self.cohort}" if self.cohort else "")
