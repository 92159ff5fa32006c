"""Predictions over REST: see them, run a version."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from inference.explanation import services as explanation
from inference.explanation.settings import METHODS
from inference.jobs.api import JobSerializer, PriorityField
from inference.jobs.models import Job
from inference.prediction import services
from inference.prediction.models import Prediction, PredictionMap
from inference.rest import SplitField, find_cohort, find_version, need, refusals, user_of
from portal.accounts.permissions import Action
from studies.models import Study


class PredictionMapSerializer(serializers.ModelSerializer):
    series_instance_uid = serializers.CharField(read_only=True, source="series.series_instance_uid")

    class Meta:
        model = PredictionMap
        fields = ["id", "kind", "label", "series", "series_instance_uid"]


class PredictionSerializer(serializers.ModelSerializer):
    study_instance_uid = serializers.CharField(read_only=True, source="study.study_instance_uid")
    segmentation_series_uid = serializers.CharField(
        read_only=True, source="segmentation.series_instance_uid", default=None
    )

    report_series_uid = serializers.CharField(read_only=True, source="report.series_instance_uid", default=None)
    maps = PredictionMapSerializer(many=True, read_only=True)

    class Meta:
        model = Prediction
        fields = [
            "id", "version", "study", "study_instance_uid", "image", "inputs", "segmentation",
            "segmentation_series_uid", "report", "report_series_uid", "maps", "scores", "measurements", "values",
            "findings", "uncertainty", "seconds", "job", "created_at",
        ]  # fmt: skip


class RunModelSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    cohort = serializers.IntegerField(required=False)
    split = SplitField(required=False, default="all")
    studies = serializers.ListField(child=serializers.IntegerField(), required=False, allow_empty=False)
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)

    inputs = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()),
        required=False,
        help_text="Series chosen by hand: study → name of the model's input → series (ids); with studies only",
    )

    def validate_inputs(self, value: dict[str, dict[str, int]]) -> dict[int, dict[str, int]]:
        if not all(study.isdigit() for study in value):
            raise serializers.ValidationError("The keys are ids of studies.")
        return {int(study): choice for study, choice in value.items()}

    def validate(self, attrs: dict) -> dict:
        if "inputs" in attrs and "studies" not in attrs:
            raise serializers.ValidationError("Inputs can be chosen for studies, not for a cohort.")
        if ("cohort" in attrs) == ("studies" in attrs):
            raise serializers.ValidationError("Give either cohort or studies.")
        return attrs


class ExplainSerializer(serializers.Serializer):
    method = serializers.ChoiceField(choices=list(METHODS.items()))
    labels = serializers.ListField(
        child=serializers.CharField(), required=False, default=list, help_text="Empty: the likeliest one"
    )
    patch = serializers.IntegerField(
        required=False, min_value=1, default=None, help_text="Voxels of what the model sees"
    )
    stride = serializers.IntegerField(required=False, min_value=1, default=None)
    baseline = serializers.CharField(required=False, default="mean", help_text="mean, minimum or a number")


class PredictionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?version=`, `?study=` and `?job=` (ids) narrow the list."""

    serializer_class = PredictionSerializer
    queryset = Prediction.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        predictions = (
            Prediction.objects.visible_to(user_of(self.request))
            .select_related("study", "segmentation", "report")
            .prefetch_related("maps__series")
        )
        for name in ("version", "study", "job"):
            if (value := self.request.query_params.get(name, "")).isdigit():
                predictions = predictions.filter(**{name: int(value)})
        return predictions.order_by("-pk")

    @extend_schema(request=ExplainSerializer, responses={201: JobSerializer})
    @action(detail=True, methods=["post"])
    def explain(self, request: Request, pk: str) -> Response:
        """Queue maps of what moved a classifier's answer; the answer is the job, the maps then stand in `maps`."""
        prediction = self.get_object()
        need(request, Action.RUN, prediction.version.model.project)
        asked = ExplainSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        with refusals():
            job = explanation.start(prediction, **asked.validated_data, by=user_of(request))
        return Response(JobSerializer(job).data, status=201)

    @extend_schema(request=RunModelSerializer, responses={201: JobSerializer})
    @action(detail=False, methods=["post"])
    def run(self, request: Request) -> Response:
        """Queue a run of a version on a cohort or on studies; the answer is its job."""
        asked = RunModelSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        version = find_version(request, values["version"])
        cohort = find_cohort(request, values["cohort"]) if "cohort" in values else None
        studies = None
        if "studies" in values:
            studies = list(Study.objects.visible_to(user_of(request)).filter(pk__in=values["studies"]))
            if len(studies) < len(set(values["studies"])):
                raise Http404
        need(request, Action.RUN, version.model.project)
        split = "" if values["split"] == "all" else values["split"]
        with refusals():
            job = services.start(
                version,
                cohort=cohort,
                split=split,
                studies=studies,
                by_hand=values.get("inputs"),
                by=user_of(request),
                priority=values["priority"],
            )
        return Response(JobSerializer(job).data, status=201)
