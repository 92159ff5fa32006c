"""Training runs and cross-validations over REST."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import PriorityField
from inference.jobs.models import Job
from inference.rest import user_of
from inference.starting import Asked, StartedViewSet, StartSerializer, started
from inference.training import crossvalidation, services, traditional
from inference.training.models import CrossValidation, TrainingRun


class TrainingRunSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    state = serializers.CharField(read_only=True, source="job.state", default=None)

    class Meta:
        model = TrainingRun
        fields = [
            "id", "project", "name", "reference", "cohort_digest", "config", "environment", "job", "state", "version",
            "created_at",
        ]  # fmt: skip


class StartTrainingSerializer(StartSerializer):
    name = serializers.CharField(required=False, max_length=120, default="")
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)


class TrainingRunViewSet(StartedViewSet):
    """`?project=` narrows the list. Follow a run by its job: `/api/jobs/<job>/`, with log and metrics."""

    serializer_class = TrainingRunSerializer
    queryset = TrainingRun.objects.none()

    @extend_schema(request=StartTrainingSerializer, responses={201: TrainingRunSerializer})
    def create(self, request: Request) -> Response:
        """Check the configuration, write the run down and queue its job."""

        def start(asked: Asked) -> TrainingRun:
            more = {key: asked.values[key] for key in ("name", "priority")}
            return services.start(**asked.where(), config=asked.config(), **more)

        return started(request, StartTrainingSerializer, TrainingRunSerializer, start)


class CrossValidationSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    cohort = serializers.IntegerField(read_only=True, source="reference.cohort_id")
    state = serializers.CharField(read_only=True, source="job.state", default=None)

    class Meta:
        model = CrossValidation
        fields = [
            "id", "project", "name", "cohort", "reference", "cohort_digest", "config", "environment", "job", "state",
            "finished_at", "created_at",
        ]  # fmt: skip


class StartCrossValidationSerializer(StartTrainingSerializer):
    one_of = ("config", "toml", "training_run")

    training_run = serializers.IntegerField(
        required=False, help_text="… or that of a training run, with every classical baseline; or none of these"
    )

    def validate(self, attrs: dict) -> dict:
        if len(set(self.one_of) & set(attrs)) > 1:
            raise serializers.ValidationError("Give one of config, toml and training_run, or none.")
        return attrs


class CrossValidationViewSet(StartedViewSet):
    """`?project=` narrows the list. One of them has its figures, with intervals and paired tests, once it has ended."""

    serializer_class = CrossValidationSerializer
    queryset = CrossValidation.objects.none()
    related = ("project", "job", "reference__cohort")

    def retrieve(self, request: Request, *args, **kwargs) -> Response:
        found = self.get_object()
        return Response({**self.get_serializer(found).data, "report": crossvalidation.report(found)})

    @extend_schema(request=StartCrossValidationSerializer, responses={201: CrossValidationSerializer})
    def create(self, request: Request) -> Response:
        """Queue a cross-validation. Without a configuration: a network that suits the images, and every baseline."""

        def start(asked: Asked) -> CrossValidation:
            where = asked.where()
            if {"config", "toml"} & set(asked.values):
                config = asked.config()
            else:
                run = find_run(request, asked.values.get("training_run"))
                where["reference"] = asked.reference or (
                    run.reference if run else services.find_reference(asked.cohort)
                )
                config = traditional.configuration(asked.cohort, where["reference"], like=run.config if run else None)
            more = {key: asked.values[key] for key in ("name", "priority")}
            return crossvalidation.start(**where, config=config, **more)

        return started(request, StartCrossValidationSerializer, CrossValidationSerializer, start)


def find_run(request: Request, pk: int | None) -> TrainingRun | None:
    if pk is None:
        return None
    found = TrainingRun.objects.visible_to(user_of(request)).filter(pk=pk).first()
    if found is None:
        raise Http404
    return found
