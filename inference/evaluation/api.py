"""Evaluations over REST."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from inference.evaluation import services
from inference.evaluation.models import Evaluation
from inference.jobs.api import PriorityField
from inference.jobs.models import Job
from inference.rest import SplitField, find_cohort, find_reference, find_version, need, refusals, user_of
from portal.accounts.permissions import Action


class EvaluationSerializer(serializers.ModelSerializer):
    cohort = serializers.IntegerField(read_only=True, source="reference.cohort_id")
    state = serializers.CharField(read_only=True, source="job.state", default=None)

    class Meta:
        model = Evaluation
        fields = [
            "id", "version", "cohort", "reference", "split", "job", "state", "summary", "overlap", "finished_at",
            "created_at",
        ]  # fmt: skip


class StartEvaluationSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    cohort = serializers.IntegerField()
    reference = serializers.IntegerField(required=False, allow_null=True, help_text="The newest where left out")
    split = SplitField(required=False, default="test")
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)


class EvaluationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?version=`, `?cohort=` and `?reference=` (ids) narrow the list. One evaluation has its per-case values."""

    serializer_class = EvaluationSerializer
    queryset = Evaluation.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        found = Evaluation.objects.visible_to(user_of(self.request)).select_related(
            "version__model", "reference__cohort", "job"
        )
        for name, field in (("version", "version"), ("cohort", "reference__cohort"), ("reference", "reference")):
            if (value := self.request.query_params.get(name, "")).isdigit():
                found = found.filter(**{field: int(value)})
        return found

    def retrieve(self, request: Request, *args, **kwargs) -> Response:
        evaluation = self.get_object()
        answer = self.get_serializer(evaluation).data
        if evaluation.finished_at:
            answer = {**answer, **services.report(evaluation, user=user_of(request))}
        return Response(answer)

    @extend_schema(request=StartEvaluationSerializer, responses={201: EvaluationSerializer})
    def create(self, request: Request) -> Response:
        """Queue an evaluation; cases without a prediction of the version are run first."""
        asked = StartEvaluationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        version = find_version(request, values["version"])
        cohort = find_cohort(request, values["cohort"])
        reference = find_reference(request, values.get("reference"))
        need(request, Action.RUN, version.model.project)
        split = "" if values["split"] == "all" else values["split"]
        with refusals():
            evaluation = services.start(
                version,
                cohort,
                reference=reference,
                split=split,
                by=user_of(request),
                priority=values["priority"],
            )
        return Response(EvaluationSerializer(evaluation).data, status=201)
