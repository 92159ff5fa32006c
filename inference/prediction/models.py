"""What a model version said about a study."""

from __future__ import annotations

from django.db import models

from inference.jobs.models import Job
from inference.registry.models import ModelVersion
from portal.accounts.models import User
from studies.models import Embargo, Series, Study


class PredictionQuerySet(models.QuerySet["Prediction"]):
    def visible_to(self, user: User) -> PredictionQuerySet:
        """Results on images that the user may see; none while a blinded reading of the study is open for the user."""
        seen = self.filter(study__in=Study.objects.visible_to(user), image__in=Series.objects.visible_to(user))
        return seen.unblinded_for(user)

    def unblinded_for(self, user: User) -> PredictionQuerySet:
        """For studies that the user is known to see: without those of which a blinded reading is open for the user.

        Asking whether such a study has a result needs no second look at who may see what.
        """
        return self.exclude(study__in=Embargo.objects.filter(user_id=user.pk).values("study"))


class Prediction(models.Model):
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="predictions")
    study = models.ForeignKey(Study, on_delete=models.PROTECT, related_name="predictions")
    image = models.ForeignKey(Series, on_delete=models.PROTECT, related_name="+")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="predictions")
    segmentation = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    # {"Anterior hippocampus": 0.99, …}: the highest probability per structure, or class probabilities
    scores = models.JSONField(default=dict, blank=True)
    # {"Anterior hippocampus": {"volume_ml": 1.62}, …}
    measurements = models.JSONField(default=dict, blank=True)
    seconds = models.FloatField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PredictionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "image"], name="one_prediction_per_version_and_image")
        ]
