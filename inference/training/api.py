"""Training runs and cross-validations over REST."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import PriorityField
from inference.jobs.models import Job
from inference.rest import find_cohort, find_project, find_reference, need, refusals, user_of
from inference.training import crossvalidation, services, traditional
from inference.training.config import check, parse
from inference.training.models import CrossValidation, TrainingRun
from portal.accounts.permissions import Action


class TrainingRunSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    state = serializers.CharField(read_only=True, source="job.state", default=None)

    class Meta:
        model = TrainingRun
        fields = [
            "id", "project", "name", "reference", "cohort_digest", "config", "environment", "job", "state", "version",
            "created_at",
        ]  # fmt: skip


class StartTrainingSerializer(serializers.Serializer):
    project: serializers.CharField = serializers.CharField(help_text="Slug")
    cohort = serializers.IntegerField()
    reference = serializers.IntegerField(required=False, allow_null=True, help_text="The newest where left out")
    name = serializers.CharField(required=False, max_length=120, default="")
    config = serializers.JSONField(required=False, help_text="The configuration as an object …")
    toml = serializers.CharField(required=False, help_text="… or as TOML text", trim_whitespace=False)
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)

    def validate(self, attrs: dict) -> dict:
        if ("config" in attrs) == ("toml" in attrs):
            raise serializers.ValidationError("Give either config or toml.")
        return attrs


class TrainingRunViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=` narrows the list. Follow a run by its job: `/api/jobs/<job>/`, with log and metrics."""

    serializer_class = TrainingRunSerializer
    queryset = TrainingRun.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        runs = TrainingRun.objects.visible_to(user_of(self.request)).select_related("project", "job")
        if slug := self.request.query_params.get("project"):
            runs = runs.filter(project__slug=slug)
        return runs.order_by("-pk")

    @extend_schema(request=StartTrainingSerializer, responses={201: TrainingRunSerializer})
    def create(self, request: Request) -> Response:
        """Check the configuration, write the run down and queue its job."""
        asked = StartTrainingSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        project = find_project(request, values["project"])
        cohort = find_cohort(request, values["cohort"])
        reference = find_reference(request, values.get("reference"))
        need(request, Action.RUN, project)
        with refusals():
            config = parse(values["toml"]) if "toml" in values else check(values["config"])
            run = services.start(
                project=project,
                config=config,
                cohort=cohort,
                reference=reference,
                name=values["name"],
                by=user_of(request),
                priority=values["priority"],
            )
        return Response(TrainingRunSerializer(run).data, status=201)


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


class StartCrossValidationSerializer(serializers.Serializer):
    project: serializers.CharField = serializers.CharField(help_text="Slug")
    cohort = serializers.IntegerField()
    reference = serializers.IntegerField(required=False, allow_null=True, help_text="The newest where left out")
    name = serializers.CharField(required=False, max_length=120, default="")
    config = serializers.JSONField(required=False, help_text="The configuration as an object …")
    toml = serializers.CharField(required=False, help_text="… or as TOML text …", trim_whitespace=False)
    training_run = serializers.IntegerField(
        required=False, help_text="… or that of a training run, with every classical baseline; or none of these"
    )
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)

    def validate(self, attrs: dict) -> dict:
        if len({"config", "toml", "training_run"} & set(attrs)) > 1:
            raise serializers.ValidationError("Give one of config, toml and training_run, or none.")
        return attrs


class CrossValidationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=` narrows the list. One of them has its figures, with intervals and paired tests, once it has ended."""

    serializer_class = CrossValidationSerializer
    queryset = CrossValidation.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        found = CrossValidation.objects.visible_to(user_of(self.request)).select_related(
            "project", "job", "reference__cohort"
        )
        if slug := self.request.query_params.get("project"):
            found = found.filter(project__slug=slug)
        return found.order_by("-pk")

    def retrieve(self, request: Request, *args, **kwargs) -> Response:
        found = self.get_object()
        return Response({**self.get_serializer(found).data, "report": crossvalidation.report(found)})

    @extend_schema(request=StartCrossValidationSerializer, responses={201: CrossValidationSerializer})
    def create(self, request: Request) -> Response:
        """Queue a cross-validation. Without a configuration: a network that suits the images, and every baseline."""
        asked = StartCrossValidationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        project = find_project(request, values["project"])
        cohort = find_cohort(request, values["cohort"])
        reference = find_reference(request, values.get("reference"))
        run = find_run(request, values.get("training_run"))
        need(request, Action.RUN, project)
        with refusals():
            if "toml" in values:
                config = parse(values["toml"])
            elif "config" in values:
                config = check(values["config"])
            else:
                reference = reference or (run.reference if run else services.find_reference(cohort))
                config = traditional.configuration(cohort, reference, like=run.config if run else None)
            made = crossvalidation.start(
                project=project,
                config=config,
                cohort=cohort,
                reference=reference,
                name=values["name"],
                by=user_of(request),
                priority=values["priority"],
            )
        return Response(CrossValidationSerializer(made).data, status=201)


def find_run(request: Request, pk: int | None) -> TrainingRun | None:
    if pk is None:
        return None
    found = TrainingRun.objects.visible_to(user_of(request)).filter(pk=pk).first()
    if found is None:
        raise Http404
    return found
