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
    # The structured report (SR)
    report = models.ForeignKey(Series, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    # [{"name": "T1", "series": 12}, …]: what each input of the model was; empty where it was the image alone
    inputs = models.JSONField(default=list, blank=True)
    # {"Anterior hippocampus": 0.99, …}: the highest probability per structure, or class probabilities
    scores = models.JSONField(default=dict, blank=True)
    # {"Anterior hippocampus": {"volume_ml": 1.62}, …}
    measurements = models.JSONField(default=dict, blank=True)
    # {"Age": {"value": 61.2, "unit": "a"}}, of a regression
    values = models.JSONField(default=dict, blank=True)
    # Boxes, likeliest first; see inference.prediction.output.Finding.as_dict
    findings = models.JSONField(default=list, blank=True)
    # {"method": "4 mirror images", "measure": "entropy", "unit": "bit", "value": 0.31}
    uncertainty = models.JSONField(default=dict, blank=True)
    seconds = models.FloatField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PredictionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "image"], name="one_prediction_per_version_and_image")
        ]


class PredictionMapQuerySet(models.QuerySet["PredictionMap"]):
    def visible_to(self, user: User) -> PredictionMapQuerySet:
        return self.filter(prediction__in=Prediction.objects.visible_to(user))


class PredictionMap(models.Model):
    """A number for every voxel, kept as a series (parametric map) of the study."""

    class Kind(models.TextChoices):
        PROBABILITY = "probability", "Probability"
        UNCERTAINTY = "uncertainty", "Uncertainty"
        GRAD_CAM = "grad_cam", "Grad-CAM"
        OCCLUSION = "occlusion", "Occlusion"

    prediction = models.ForeignKey(Prediction, on_delete=models.CASCADE, related_name="maps")
    series = models.ForeignKey(Series, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=11, choices=Kind.choices)
    label = models.CharField(max_length=64, blank=True, help_text="Class or structure; empty: all of them")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PredictionMapQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(kind__in=["probability", "uncertainty", "grad_cam", "occlusion"]),
                name="prediction_map_kind_known",
            )
        ]
