"""Routing rules and what they did over REST."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import Conflict, PriorityField
from inference.jobs.models import Job
from inference.registry.models import Model, ModelVersion
from inference.rest import find_project, need, refusals, user_of
from inference.routing import preview, pushes, rules, services
from inference.routing.conditions import RuleError
from inference.routing.matching import Decision, Verdict
from inference.routing.models import RoutedStudy, RoutingRule
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may
from portal.routing.views import visible
from studies.dimse.models import RemoteNode

PAGE = 100


class RuleSerializer(serializers.ModelSerializer):
    """`model` (whatever of it is in production) or `version`; `node` null: results are not sent. `node_missing`: they
    should be, but the node was removed."""

    project: Any = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    priority = PriorityField(required=False, default=Job.Priority.NORMAL)
    created_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    node_missing = serializers.SerializerMethodField()
    runs = serializers.SerializerMethodField()

    class Meta:
        model = RoutingRule
        fields = [
            "id", "project", "name", "enabled", "enabled_at", "position", "conditions", "model", "version", "runs",
            "priority", "node", "node_missing", "created_by", "created_at", "changed_at",
        ]  # fmt: skip
        read_only_fields = ["enabled", "enabled_at", "position", "created_at", "changed_at"]
        extra_kwargs = {"model": {"required": False}, "version": {"required": False}, "node": {"required": False}}
        validators: list[Any] = []  # the service has the words for what does not fit

    def __init__(self, *arguments: Any, project: Project | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # What another project has is as if it did not exist.
        self.fields["model"].queryset = Model.objects.filter(project=project)  # type: ignore[attr-defined]
        self.fields["version"].queryset = ModelVersion.objects.filter(model__project=project)  # type: ignore[attr-defined]
        self.fields["node"].queryset = RemoteNode.objects.filter(project=project)  # type: ignore[attr-defined]

    def get_node_missing(self, rule: RoutingRule) -> bool:
        return rule.push and rule.node_id is None

    def get_runs(self, rule: RoutingRule) -> str:
        return str(rule.version or f"{rule.model} in production")

    def values(self) -> dict[str, Any]:
        """As `rules.create` takes them: only what was sent."""
        sent = set(self.initial_data) | ({"priority"} if not self.partial else set())
        found = {name: value for name, value in self.validated_data.items() if name in sent}
        if "version" in found and found["version"] is not None and "model" not in found:
            found["model"] = None
        if "model" in found and found["model"] is not None and "version" not in found:
            found["version"] = None
        if "node" in found:
            found["push"] = found["node"] is not None
        return found


class RoutedStudySerializer(serializers.ModelSerializer):
    """What a rule did with a study. `job_state`: of the run; `push`: none, waiting, sending, sent, failed."""

    job_state = serializers.CharField(source="job.state", default=None)
    by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")

    class Meta:
        model = RoutedStudy
        fields = [
            "id", "rule", "rule_name", "study", "image", "number_of_instances", "version", "outcome", "reason",
            "current", "job", "job_state", "prediction", "by", "created_at", "node", "push", "push_job",
            "push_attempts", "push_due_at", "push_cause", "pushed_at",
        ]  # fmt: skip


class MoveSerializer(serializers.Serializer):
    up = serializers.BooleanField()


class RunSerializer(serializers.Serializer):
    """`confirm`: how many studies match, as the dry run says; another number is refused with 409."""

    days = serializers.CharField(default="30", help_text="A number, or `all`")
    confirm = serializers.IntegerField(min_value=0)


class RoutingRuleViewSet(viewsets.ModelViewSet):
    """Rules that run a model when a study has come in. `?project=<slug>` narrows the list; `POST` names the project.

    A new rule is off. `POST …/enable/` and `…/disable/` switch it; `POST …/move/` with `up` changes the order;
    `GET …/dry-run/?days=30&verdict=match&page=1` says what it would do with the archive, `POST /dry-run/` the same of a
    rule that is not stored; `POST …/run/` runs it on what matches.
    """

    serializer_class = RuleSerializer
    queryset = RoutingRule.objects.none()
    lookup_value_regex = r"\d+"
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]

    def get_queryset(self) -> Any:
        found = visible(user_of(self.request)).order_by("project__slug", "position", "pk")
        if slug := self.request.query_params.get("project"):
            found = found.filter(project__slug=slug)
        return found

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        project = self._project(request)
        asked = RuleSerializer(data=request.data, project=project)
        asked.is_valid(raise_exception=True)
        with refusals():
            made = rules.create(project, by=user_of(request), **asked.values())
        return Response(RuleSerializer(made).data, status=201)

    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        rule = self._changeable()
        asked = RuleSerializer(rule, data=request.data, project=rule.project, partial=True)
        asked.is_valid(raise_exception=True)
        with refusals():
            changed = rules.change(rule, by=user_of(request), **asked.values())
        return Response(RuleSerializer(changed).data)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        rules.remove(self._changeable(), by=user_of(request))
        return Response(status=204)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def enable(self, request: Request, pk: str = "") -> Response:
        with refusals():
            return Response(RuleSerializer(rules.switch(self._changeable(), True, by=user_of(request))).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def disable(self, request: Request, pk: str = "") -> Response:
        with refusals():
            return Response(RuleSerializer(rules.switch(self._changeable(), False, by=user_of(request))).data)

    @extend_schema(request=MoveSerializer)
    @action(detail=True, methods=["post"])
    def move(self, request: Request, pk: str = "") -> Response:
        rule = self._changeable()
        asked = MoveSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        rules.move(rule, asked.validated_data["up"], by=user_of(request))
        return Response(RuleSerializer(self.get_object()).data)

    @action(detail=True, url_path="dry-run", pagination_class=None)
    def dry_run(self, request: Request, pk: str = "") -> Response:
        """Counts by verdict, and 100 studies of `?page=`. Nothing is written."""
        return self._dry_run(self._changeable(), request.query_params)

    @extend_schema(request=RuleSerializer)
    @action(detail=False, methods=["post"], url_path="dry-run", url_name="try")
    def try_out(self, request: Request) -> Response:
        """The same of a rule that is sent and not stored; `days`, `verdict` and `page` beside it."""
        project = self._project(request)
        data: Any = request.data
        asked = RuleSerializer(data={"name": "not stored", **data}, project=project)
        asked.is_valid(raise_exception=True)
        with refusals():
            rule = rules.draft(project, **asked.values())
        return self._dry_run(rule, data)

    @extend_schema(request=RunSerializer)
    @action(detail=True, methods=["post"])
    def run(self, request: Request, pk: str = "") -> Response:
        """Run it on what matches among the studies of `days`, 500 at most, the newest first."""
        rule = self._changeable()
        asked = RunSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        matches = self._tally(rule, asked.validated_data["days"]).matches
        if asked.validated_data["confirm"] != len(matches):
            raise Conflict(f"{len(matches)} studies match now. Send this number as “confirm” to run the rule on them.")
        done = services.run_now(rule, matches, by=user_of(request))
        jobs = list(dict.fromkeys(row.job_id for row in done))
        return Response({"matched": len(matches), "run": len(done), "jobs": jobs}, status=202)

    def _tally(self, rule: RoutingRule, days: str) -> preview.Tally:
        try:
            return preview.tally(rule, preview.days_of(days))
        except RuleError as error:
            raise ValidationError({"days": [str(error)]}) from None

    def _dry_run(self, rule: RoutingRule, asked: Any) -> Response:
        verdict = str(asked.get("verdict") or "")
        if verdict and verdict not in list(Verdict):
            raise ValidationError({"verdict": [f"Unknown; use one of {', '.join(Verdict)}."]})
        number = str(asked.get("page") or "1")
        if not number.isdecimal() or not 0 < int(number) < 10_000:
            raise ValidationError({"page": ["A whole number from 1."]})
        try:
            days = preview.days_of(str(asked.get("days") or "30"))
        except RuleError as error:
            raise ValidationError({"days": [str(error)]}) from None
        tally, found = preview.page(rule, days, Verdict(verdict) if verdict else None, number=int(number), size=PAGE)
        return Response({**tally.as_dict(), "page": int(number), "decisions": [_decision(one) for one in found]})

    def _project(self, request: Request) -> Project:
        data: Any = request.data
        project = find_project(request, str(data.get("project", "")))
        need(request, Action.RUN, project)
        return project

    def _changeable(self) -> RoutingRule:
        rule = self.get_object()
        need(self.request, Action.RUN, rule.project)
        return rule


def _decision(one: Decision) -> dict[str, Any]:
    return {
        "study": one.study.pk,
        "study_instance_uid": one.study.study_instance_uid,
        "verdict": str(one.verdict),
        "reason": one.reason,
        "image": one.image.pk if one.image is not None else None,
        "version": one.version.pk if one.version is not None else None,
        "series": [
            {"series": series.pk, "condition": mismatch.condition, "found": mismatch.found}
            for series, mismatch in one.mismatches
        ],
    }


class RoutedStudyViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """What rules did, newest first. `?rule=`, `?study=`, `?prediction=`, `?outcome=` and `?push=` narrow the list."""

    serializer_class = RoutedStudySerializer
    queryset = RoutedStudy.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self) -> Any:
        found = RoutedStudy.objects.visible_to(user_of(self.request)).select_related(
            "job", "by", "study__project", "node"
        )
        query = self.request.query_params
        for name in ("rule", "study", "prediction"):
            if (value := query.get(name, "")).isdecimal():
                found = found.filter(**{name: int(value)})
        for name in ("outcome", "push"):
            if value := query.get(name):
                found = found.filter(**{name: value})
        return found.order_by("-pk")

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resend(self, request: Request, pk: str = "") -> Response:
        """Send a result again that was sent, or could not be."""
        row = self.get_object()
        if not may(user_of(request), Action.IMPORT, row.study.project):
            raise PermissionDenied("Your role in this project does not allow sending.")
        with refusals():
            return Response(RoutedStudySerializer(pushes.resend(row, by=user_of(request))).data)
