"""Searches for settings and for a learning rate over REST."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import JobSerializer
from inference.jobs.models import Job
from inference.rest import need, refusals, user_of
from inference.starting import Asked, StartedViewSet, StartSerializer, started
from inference.training.api import TrainingRunSerializer
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


class StartSearchSerializer(StartSerializer):
    name = serializers.CharField(required=False, max_length=120, default="")
    search = serializers.JSONField(
        required=False,
        help_text="What varies, beside config: {trials, max_minutes, prune, space}; in TOML it is [search]",
    )


class ChosenTrialSerializer(serializers.Serializer):
    trial = serializers.IntegerField(required=False, allow_null=True, help_text="The best one where left out")


class SettingsSearchViewSet(StartedViewSet):
    """`?project=` narrows the list. One search has its trials, with intervals on the validation patients."""

    serializer_class = SettingsSearchSerializer
    queryset = SettingsSearch.objects.none()

    def get_serializer_class(self):
        return FoundSettingsSerializer if self.action == "retrieve" else SettingsSearchSerializer

    @extend_schema(request=StartSearchSerializer, responses={201: SettingsSearchSerializer})
    def create(self, request: Request) -> Response:
        """Check configuration and space, write the search down and queue its job."""

        def start(asked: Asked) -> SettingsSearch:
            if "toml" in asked.values:
                config, search = space.parse(asked.values["toml"])
            else:
                config = asked.config()
                search = space.check(config, asked.values.get("search"))
            return services.start(**asked.where(), config=config, search=search, name=asked.values["name"])

        return started(request, StartSearchSerializer, SettingsSearchSerializer, start)

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

    @extend_schema(request=StartSerializer, responses={201: JobSerializer})
    def create(self, request: Request) -> Response:
        def start(asked: Asked) -> Job:
            config = space.base(asked.values["toml"]) if "toml" in asked.values else asked.config()
            return services.start_range_test(**asked.where(), config=config)

        return started(request, StartSerializer, JobSerializer, start)
