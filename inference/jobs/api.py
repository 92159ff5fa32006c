"""Jobs over REST: see them, cancel, retry; their log and their metrics.

Whoever sees a project sees its jobs. Cancelling, retrying and reading the log need the right to run things.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs import services
from inference.jobs.errors import IllegalTransition
from inference.jobs.models import Job, JobLogLine, JobMetric
from inference.jobs.order import places
from inference.rest import user_of
from portal.accounts.permissions import Action, may

LOG_PAGE = 1000


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"


class PriorityField(serializers.ChoiceField):
    """`low`, `normal` or `urgent`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=[priority.name.lower() for priority in Job.Priority], **kwargs)

    def to_internal_value(self, data: Any) -> Job.Priority:  # type: ignore[override]  # the stub knows text only
        return Job.Priority[super().to_internal_value(data).upper()]

    def to_representation(self, value: int) -> str:  # type: ignore[override]
        return Job.Priority(value).name.lower()


class PrioritySerializer(serializers.Serializer):
    priority = PriorityField()


class JobSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    created_by: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="username")
    seconds_left = serializers.FloatField(read_only=True, allow_null=True)
    priority = PriorityField(read_only=True)
    position = serializers.SerializerMethodField()

    class Meta:
        model = Job
        fields = [
            "id", "project", "task", "title", "queue", "priority", "state", "position", "attempt", "max_attempts",
            "worker", "cancel_requested", "progress", "progress_text", "seconds_left", "error_class", "cause",
            "next_step", "parameters", "result", "memory", "created_by", "created_at", "queued_at", "started_at",
            "finished_at",
        ]  # fmt: skip

    def get_position(self, job: Job) -> int | None:
        """Place in the queue, 1 is next; null where the job does not wait."""
        if job.state != Job.State.QUEUED:
            return None
        context: dict[str, Any] = self.context  # type: ignore[assignment]
        known: dict[str, dict[int, int]] = context.setdefault("places", {})
        if job.queue not in known:
            known[job.queue] = places(job.queue)
        return known[job.queue].get(job.pk)


class JobLogLineSerializer(serializers.ModelSerializer):
    class Meta:
        model = JobLogLine
        fields = ["id", "at", "attempt", "level", "text"]


class JobMetricSerializer(serializers.ModelSerializer):
    value = serializers.SerializerMethodField("finite_value")

    class Meta:
        model = JobMetric
        fields = ["id", "attempt", "name", "step", "value"]

    def finite_value(self, metric: JobMetric) -> float | None:
        """Null where the value is not a finite number."""
        return metric.value if math.isfinite(metric.value) else None


class JobViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=`, `?state=`, `?queue=` and `?task=` narrow the list."""

    serializer_class = JobSerializer
    queryset = Job.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        jobs = Job.objects.visible_to(user_of(self.request)).select_related("project", "created_by").order_by("-id")
        if self.action != "list":
            return jobs
        asked = self.request.query_params
        for name, field, known in (
            ("state", "state", Job.State.values),
            ("queue", "queue", Job.Queue.values),
            ("project", "project__slug", None),
            ("task", "task", None),
        ):
            if value := asked.get(name):
                if known is not None and value not in known:
                    raise ValidationError({name: [f"Unknown; use one of {', '.join(known)}."]})
                jobs = jobs.filter(**{field: value})
        return jobs

    @action(detail=True, methods=["post"], serializer_class=serializers.Serializer)
    def cancel(self, request: Request, pk: str) -> Response:
        """A queued job ends at once, a running one at its next check. 409 where it has ended already."""
        return self._change(services.cancel)

    @action(detail=True, methods=["post"], serializer_class=serializers.Serializer)
    def retry(self, request: Request, pk: str) -> Response:
        """Queue a failed or cancelled job again. 409 in any other state."""
        return self._change(services.retry)

    @action(detail=True, methods=["post"], serializer_class=PrioritySerializer)
    def priority(self, request: Request, pk: str) -> Response:
        """Give a queued job another priority. 409 where it does not wait any more."""
        self._job_to_run()
        asked = PrioritySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        return self._change(partial(services.prioritise, priority=asked.validated_data["priority"]))

    @action(detail=True, serializer_class=JobLogLineSerializer, pagination_class=None)
    def log(self, request: Request, pk: str) -> Response:
        """Up to 1000 lines after the line `?after=ID`, oldest first."""
        job = self._job_to_run()
        lines = job.log.filter(pk__gt=self._after())[:LOG_PAGE]
        return Response(JobLogLineSerializer(lines, many=True).data)

    @action(detail=True, serializer_class=JobMetricSerializer, pagination_class=None)
    def metrics(self, request: Request, pk: str) -> Response:
        """Every point after the point `?after=ID`."""
        return Response(JobMetricSerializer(self.get_object().metrics.filter(pk__gt=self._after()), many=True).data)

    def _job_to_run(self) -> Job:
        job = self.get_object()
        if not may(user_of(self.request), Action.RUN, job.project):
            raise PermissionDenied("Your role in this project may not run jobs. Ask a manager of the project.")
        return job

    def _after(self) -> int:
        try:
            return int(self.request.query_params.get("after", 0))
        except ValueError:
            raise ValidationError({"after": ["The ID of a line: a whole number."]}) from None

    def _change(self, service) -> Response:
        job = self._job_to_run()
        try:
            job = service(job, by=user_of(self.request))
        except IllegalTransition as error:
            raise Conflict(error.cause) from None
        return Response(JobSerializer(job, context=self.get_serializer_context()).data)
