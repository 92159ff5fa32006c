"""Campaigns over REST: make, steer, watch, publish, export; the same rules as the pages."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from inference.evaluation.statistics.agreement import Agreement
from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from portal.annotation import access, agreement, campaigns, consensus, design, export, progress
from portal.annotation.errors import AnnotationError, CampaignError
from portal.annotation.models import Campaign, Question, SegmentLabel
from studies.cohorts.models import Cohort


class Refused(APIException):
    status_code = 409
    default_code = "conflict"


class QuestionSerializer(serializers.ModelSerializer):
    class Meta:
        model = Question
        fields = ["id", "position", "text", "kind", "choices", "required"]
        read_only_fields = ["id", "position"]


class SegmentSerializer(serializers.ModelSerializer):
    class Meta:
        model = SegmentLabel
        fields = ["number", "name", "color", "required"]


class CampaignSerializer(serializers.ModelSerializer):
    project = serializers.SlugRelatedField(slug_field="slug", queryset=Project.objects.none())
    cohort = serializers.PrimaryKeyRelatedField(queryset=Cohort.objects.none())
    ai_version = serializers.PrimaryKeyRelatedField(
        queryset=ModelVersion.objects.none(), required=False, allow_null=True
    )
    readers = serializers.ListField(child=serializers.CharField(), write_only=True, help_text="User names")
    questions = QuestionSerializer(many=True, required=False)
    segments = SegmentSerializer(many=True, required=False, source="segment_labels")

    class Meta:
        model = Campaign
        fields = [
            "id", "project", "cohort", "name", "instructions", "state", "overlap", "blinded", "ai_version", "due_date",
            "seed", "created_at", "started_at", "closed_at", "readers", "questions", "segments",
        ]  # fmt: skip
        read_only_fields = ["id", "state", "created_at", "started_at", "closed_at"]
        validators: list[Any] = []  # the service says in words which name is taken

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        request = self.context.get("request")
        if request is not None and request.user.is_authenticated:
            fields["project"].queryset = Project.objects.visible_to(request.user)  # type: ignore[attr-defined]
            fields["cohort"].queryset = Cohort.objects.visible_to(request.user)  # type: ignore[attr-defined]
            fields["ai_version"].queryset = ModelVersion.objects.visible_to(request.user)  # type: ignore[attr-defined]
        return fields

    def create(self, validated: dict[str, Any]) -> Campaign:
        user = self.context["request"].user
        project = validated.pop("project")
        if not may(user, Action.MANAGE, project):
            raise PermissionDenied("Only managers of the project make campaigns in it.")
        names = validated.pop("readers")
        found = {reader.username: reader for reader in User.objects.filter(username__in=names, is_active=True)}
        unknown = [name for name in names if name not in found or not may(found[name], Action.VIEW, project)]
        if unknown:
            raise ValidationError({"readers": [f"{name} is no member of the project." for name in unknown]})
        questions = [design.QuestionSpec(**question) for question in validated.pop("questions", [])]
        segments = [design.SegmentSpec(**segment) for segment in validated.pop("segment_labels", [])]
        return campaigns.create(
            project=project,
            by=user,
            readers=[found[name] for name in names],
            questions=questions,
            segments=segments,
            overlap=validated.pop("overlap", 2),
            **validated,
        )


class PublishSerializer(serializers.Serializer):
    name = serializers.CharField(max_length=80)
    method = serializers.ChoiceField(choices=list(consensus.METHODS), default=consensus.MAJORITY)
    minimum_reads = serializers.IntegerField(min_value=1, required=False, allow_null=True, default=None)


def _estimate(found: Agreement) -> dict[str, Any]:
    return {
        "estimate": found.estimate,
        "lower": found.lower,
        "upper": found.upper,
        "n": found.n,
        "method": found.method,
        "few_cases": found.n < agreement.MINIMUM_CASES,
    }


class CampaignViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, viewsets.GenericViewSet
):
    """`?project=` and `?state=` narrow the list. Managers create and steer; readers see the campaigns they read in."""

    serializer_class = CampaignSerializer
    queryset = Campaign.objects.none()
    lookup_value_regex = r"\d+"

    @property
    def user(self) -> Any:
        return self.request.user

    def get_queryset(self):
        found = access.campaigns(self.user).prefetch_related("questions", "segment_labels").order_by("-id")
        for name, column in (("project", "project__slug"), ("state", "state")):
            if value := self.request.query_params.get(name):
                found = found.filter(**{column: value})
        return found

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, CampaignError) and exc.field:
            exc = ValidationError({exc.field: [str(exc)]})
        elif isinstance(exc, AnnotationError):
            exc = Refused({"detail": str(exc), "cause": exc.cause, "next_step": exc.next_step})
        return super().handle_exception(exc)

    def _steered(self) -> Campaign:
        campaign = self.get_object()
        if not access.manages(self.user, campaign):
            raise PermissionDenied("Only managers of the project steer its campaigns.")
        return campaign

    def _with_results(self) -> Campaign:
        campaign = self.get_object()
        if not access.sees_results(self.user, campaign):
            raise PermissionDenied("Readers see each other's answers only when the campaign is closed, if at all.")
        return campaign

    def _moved(self, step) -> Response:
        return Response(self.get_serializer(step(self._steered(), by=self.user)).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        return self._moved(campaigns.start)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        return self._moved(campaigns.pause)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        return self._moved(campaigns.resume)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str) -> Response:
        return self._moved(campaigns.close)

    @extend_schema(responses=dict)
    @action(detail=True, methods=["get"])
    def progress(self, request: Request, pk: str) -> Response:
        """Of every reader; readers get their own."""
        campaign = self.get_object()
        everyone = access.sees_everyone(self.user, campaign)
        found = progress.of_campaign(campaign, only=None if everyone else self.user)
        return Response(
            {
                "total": found.total,
                "submitted": found.submitted,
                "drafts": found.drafts,
                "without_reader": found.lacking,
                "expected_end": found.expected_end,
                "median_seconds": _estimate(found.median_seconds),
                "readers": [
                    {
                        "reader": one.reader.username,
                        "total": one.total,
                        "submitted": one.submitted,
                        "drafts": one.drafts,
                        "skipped": one.skipped,
                        "flagged": one.flagged,
                        "last_activity": one.last_activity,
                        "pace": one.pace.text,
                    }
                    for one in found.readers
                ],
            }
        )

    @extend_schema(responses=dict)
    @action(detail=True, methods=["get"])
    def agreement(self, request: Request, pk: str) -> Response:
        """Per question and segment, of all readers and of each pair, and the cases that differ most."""
        campaign = self._with_results()
        report = agreement.report(campaign)
        names = {reader.pk: reader.username for reader in report.readers}
        return Response(
            {
                "pending_overlaps": report.pending,
                "minimum_cases": agreement.MINIMUM_CASES,
                "items": [
                    {
                        "key": item.key,
                        "title": item.title,
                        "measure_of_pairs": item.measure,
                        "overall": _estimate(item.overall),
                        "pairs": [
                            {"readers": [names[a], names[b]], **_estimate(found)}
                            for (a, b), found in item.pairs.items()
                        ],
                    }
                    for item in report.items
                ],
                "disagreements": [
                    {"case": one.name, "score": one.score, "reads": one.reads, "texts": one.texts}
                    for one in report.disagreements
                ],
            }
        )

    @extend_schema(methods=["post"], request=PublishSerializer, responses={202: dict})
    @extend_schema(methods=["get"], responses=dict)
    @action(detail=True, methods=["get", "post"])
    def consensus(self, request: Request, pk: str) -> Response:
        """GET: what would be published now, case by case. POST: publish it in the background; answers with the job."""
        if request.method == "POST":
            campaign = self._steered()
            asked = PublishSerializer(data=request.data)
            asked.is_valid(raise_exception=True)
            job = consensus.request(campaign, by=self.user, **asked.validated_data)
            return Response({"job": job.pk, "state": job.state}, status=status.HTTP_202_ACCEPTED)
        campaign = self._with_results()
        texts = {str(question.pk): question.text for question in campaign.questions.all()}
        return Response(
            {
                "cases": [
                    {
                        "case": planned.case.name,
                        "reads": len(planned.reads),
                        "answers": {texts[key]: value for key, value in planned.answers.items()},
                        "decided": planned.decided,
                        "left_out": planned.reason or None,
                    }
                    for planned in consensus.plan(campaign)
                ],
                "published": [
                    {"reference": one.reference_id, "name": one.reference.name, "version": one.reference.version}
                    for one in campaign.consensuses.select_related("reference")
                ],
            }
        )

    @extend_schema(responses=dict)
    @action(detail=True, methods=["get"])
    def export(self, request: Request, pk: str) -> Response:
        """Every read, without the patient's identity."""
        return Response(export.as_json(self._with_results()))
