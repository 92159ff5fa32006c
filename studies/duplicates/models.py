"""Pictures of series as perceptual hashes, and pairs of series that look the same. Rows are written by
`studies.duplicates.services` only."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from portal.accounts.models import User
from studies.models import Series


class Look(models.Model):
    """That a series was looked at, and how much of it there was then; more images make the look out of date."""

    series = models.OneToOneField(Series, on_delete=models.CASCADE, related_name="look")
    number_of_instances = models.PositiveIntegerField()
    looked_at = models.DateTimeField(auto_now=True)


class Fingerprint(models.Model):
    """Hashes of one picture, or of three slices of a volume (`studies.dicom.phash`), 32 bytes for each."""

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="fingerprints")
    pictures = models.PositiveSmallIntegerField()
    hashes = models.BinaryField()

    class Meta:
        indexes = [models.Index(fields=["pictures"], name="fingerprint_by_pictures")]


class PairQuerySet(models.QuerySet["Pair"]):
    def visible_to(self, user: User) -> PairQuerySet:
        """Pairs of which the user may see both sides."""
        visible = Series.objects.visible_to(user)
        return self.filter(one__in=visible, other__in=visible)

    def standing(self) -> PairQuerySet:
        return self.exclude(state=Pair.State.DISMISSED)


class Pair(models.Model):
    """Two series of different patients that look the same; `one` has the lower key."""

    class State(models.TextChoices):
        FOUND = "found", "Found"
        DISMISSED = "dismissed", "Not the same image"

    one = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="+")
    other = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="+")
    distance = models.PositiveSmallIntegerField(help_text="Bits that differ, of 255")
    state = models.CharField(max_length=9, choices=State.choices, default=State.FOUND)
    found_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    settled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = PairQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["one", "other"], name="duplicate_pair_once"),
            models.CheckConstraint(condition=Q(one__lt=F("other")), name="duplicate_pair_in_order"),
            models.CheckConstraint(condition=Q(state__in=["found", "dismissed"]), name="duplicate_pair_state_known"),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}: series {self.one_id} and {self.other_id}"

    @property
    def sides(self) -> tuple[Series, Series]:
        return (self.one, self.other)
