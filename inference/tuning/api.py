"""Searches for settings and for a learning rate over REST."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import JobSerializer
from inference.rest import find_cohort, find_project, find_reference, need, refusals, user_of
from inference.training.api import TrainingRunSerializer
from inference.training.config import check
from inference.tuning import services, space
from inference.tuning.models import SettingsSearch, Trial
from portal.accounts.permissions import Action


class TrialSerializer(serializers.ModelSerializer):
    class Meta:
        model = Trial
        fields = [
            "number", "state", "values", "value", "figures", "curve", "epochs", "seconds", "cause", "next_step",
        ]  # fmt: skip


class SettingsSearchSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    state = serializers.CharField(read_only=True, source="job.state", default=None)

    class Meta:
        model = SettingsSearch
        fields = [
            "id", "project", "name", "reference", "cohort_digest", "config", "search", "environment", "job", "state",
            "finished_at", "created_at",
        ]  # fmt: skip


class FoundSettingsSerializer(SettingsSearchSerializer):
    trials = TrialSerializer(many=True, read_only=True)
    best = serializers.SerializerMethodField(help_text="Number of the best trial on the validation patients")

    class Meta(SettingsSearchSerializer.Meta):
        fields = [*SettingsSearchSerializer.Meta.fields, "best", "trials"]

    def get_best(self, search: SettingsSearch) -> int | None:
        chosen = services.best(search)
        return chosen.number if chosen else None


class StartTuningSerializer(serializers.Serializer):
    project: serializers.CharField = serializers.CharField(help_text="Slug")
    cohort = serializers.IntegerField()
    reference = serializers.IntegerField(required=False, allow_null=True, help_text="The newest where left out")
    config = serializers.JSONField(required=False, help_text="The configuration as an object …")
    toml = serializers.CharField(required=False, help_text="… or as TOML text", trim_whitespace=False)

    def validate(self, attrs: dict) -> dict:
        if ("config" in attrs) == ("toml" in attrs):
            raise serializers.ValidationError("Give either config or toml.")
        return attrs


class StartSearchSerializer(StartTuningSerializer):
    name = serializers.CharField(required=False, max_length=120, default="")
    search = serializers.JSONField(
        required=False,
        help_text="What varies, beside config: {trials, max_minutes, prune, space}; in TOML it is [search]",
    )


class ChosenTrialSerializer(serializers.Serializer):
    trial = serializers.IntegerField(required=False, allow_null=True, help_text="The best one where left out")


class SettingsSearchViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=` narrows the list. One search has its trials, with intervals on the validation patients."""

    serializer_class = SettingsSearchSerializer
    queryset = SettingsSearch.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        found = SettingsSearch.objects.visible_to(user_of(self.request)).select_related("project", "job")
        if slug := self.request.query_params.get("project"):
            found = found.filter(project__slug=slug)
        return found.order_by("-pk")

    def get_serializer_class(self):
        return FoundSettingsSerializer if self.action == "retrieve" else SettingsSearchSerializer

    @extend_schema(request=StartSearchSerializer, responses={201: SettingsSearchSerializer})
    def create(self, request: Request) -> Response:
        """Check configuration and space, write the search down and queue its job."""
        asked = StartSearchSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        project = find_project(request, values["project"])
        cohort = find_cohort(request, values["cohort"])
        reference = find_reference(request, values.get("reference"))
        need(request, Action.RUN, project)
        with refusals():
            if "toml" in values:
                config, search = space.parse(values["toml"])
            else:
                config = check(values["config"])
                search = space.check(config, values.get("search"))
            made = services.start(
                project=project,
                config=config,
                search=search,
                cohort=cohort,
                reference=reference,
                name=values["name"],
                by=user_of(request),
            )
        return Response(SettingsSearchSerializer(made).data, status=201)

    @extend_schema(request=ChosenTrialSerializer, responses={201: TrainingRunSerializer})
    @action(detail=True, methods=["post"])
    def train(self, request: Request, pk: str) -> Response:
        """Start a training run with the settings of a trial."""
        search = self.get_object()
        need(request, Action.RUN, search.project)
        asked = ChosenTrialSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        with refusals():
            run = services.train(search.job, number=asked.validated_data.get("trial"), by=user_of(request))
        return Response(TrainingRunSerializer(run).data, status=201)


class LearningRateViewSet(viewsets.ViewSet):
    """The range test; follow its job, whose result has `suggested`, `rates`, `losses` and `smoothed`."""

    @extend_schema(request=StartTuningSerializer, responses={201: JobSerializer})
    def create(self, request: Request) -> Response:
        asked = StartTuningSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        project = find_project(request, values["project"])
        cohort = find_cohort(request, values["cohort"])
        reference = find_reference(request, values.get("reference"))
        need(request, Action.RUN, project)
        with refusals():
            config = space.base(values["toml"]) if "toml" in values else check(values["config"])
            job = services.start_range_test(
                project=project, config=config, cohort=cohort, reference=reference, by=user_of(request)
            )
        return Response(JobSerializer(job).data, status=201)
