"""Training runs over REST."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from inference.rest import find_cohort, find_project, find_reference, need, refusals, user_of
from inference.training import services
from inference.training.config import check, parse
from inference.training.models import TrainingRun
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
            )
        return Response(TrainingRunSerializer(run).data, status=201)
