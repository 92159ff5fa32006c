"""What the quality control found. Rows are written by `studies.quality.services` only."""

from __future__ import annotations

from django.db import models

from portal.accounts.models import User
from studies.dicom.quality import CODES
from studies.models import Series


class Check(models.Model):
    """That a series was looked at, and how much of it there was then; more images make the check out of date."""

    series = models.OneToOneField(Series, on_delete=models.CASCADE, related_name="quality_check")
    number_of_instances = models.PositiveIntegerField()
    checked_at = models.DateTimeField(auto_now=True)


class FindingQuerySet(models.QuerySet["Finding"]):
    def visible_to(self, user: User) -> FindingQuerySet:
        return self.filter(series__in=Series.objects.visible_to(user))


class Finding(models.Model):
    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="quality_findings")
    code = models.CharField(max_length=20, choices=list(CODES.items()))
    reason = models.CharField(max_length=300)
    numbers = models.JSONField(default=dict, blank=True)

    objects = FindingQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["code", "series"], name="quality_finding_by_code")]

    def __str__(self) -> str:
        return f"{self.get_code_display()}: series {self.series_id}"
