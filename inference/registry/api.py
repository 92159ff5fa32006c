"""Models, versions, promotion and its history over REST."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import JobSerializer
from inference.registry import card, card_markdown, card_text, ensembles, history, importing, services
from inference.registry.manifest import MEASURES, MOST_PASSES, MOST_SHIFTS
from inference.registry.models import Model, ModelVersion, Promotion, Stage
from inference.rest import find_project, find_version, need, refusals, user_of
from portal.accounts.permissions import Action


class ModelSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    versions: serializers.PrimaryKeyRelatedField = serializers.PrimaryKeyRelatedField(many=True, read_only=True)

    class Meta:
        model = Model
        fields = ["id", "project", "name", "description", "task", "versions", "created_at"]


class ModelVersionSerializer(serializers.ModelSerializer):
    project: serializers.SlugRelatedField = serializers.SlugRelatedField(
        read_only=True, slug_field="slug", source="model.project"
    )
    model_name = serializers.CharField(read_only=True, source="model.name")

    class Meta:
        model = ModelVersion
        fields = ["id", "project", "model", "model_name", "number", "stage", "digest", "manifest", "created_at"]


class PromotionSerializer(serializers.ModelSerializer):
    by: serializers.SlugRelatedField = serializers.SlugRelatedField(read_only=True, slug_field="username")

    class Meta:
        model = Promotion
        fields = ["id", "version", "from_stage", "to_stage", "reason", "by", "at"]


class PromoteSerializer(serializers.Serializer):
    to = serializers.ChoiceField(choices=Stage.choices)
    reason = serializers.CharField(max_length=2000)


class WriteCardSerializer(serializers.Serializer):
    revision = serializers.IntegerField(min_value=0, help_text="Number of the revision that was read; 0 for none")
    sections = serializers.DictField(
        child=serializers.CharField(allow_blank=True), help_text="Those that change, by key"
    )


class ImportModelSerializer(serializers.Serializer):
    project: serializers.CharField = serializers.CharField(help_text="Slug")
    file = serializers.FileField(help_text="Bundle as zip, or .ts, .pt2, .onnx, .safetensors, .pt with a manifest")
    name = serializers.CharField(required=False, max_length=80, default="")
    manifest = serializers.CharField(required=False, default="", help_text="JSON text, see docs/bundle.md")


class MakeEnsembleSerializer(serializers.Serializer):
    name: serializers.SlugField = serializers.SlugField(
        max_length=80, help_text="Of the model; a known one gets its next version"
    )
    versions = serializers.ListField(child=serializers.IntegerField(), min_length=1, max_length=ensembles.MOST)
    mirror = serializers.ListField(
        child=serializers.ChoiceField(choices=["x", "y", "z"]), required=False, default=list, help_text="Mirror images"
    )
    shifts = serializers.IntegerField(min_value=0, max_value=MOST_SHIFTS, required=False, default=0)
    dropout = serializers.IntegerField(min_value=0, max_value=MOST_PASSES, required=False, default=0)
    uncertainty = serializers.ChoiceField(choices=["", *MEASURES], required=False, default="")


class ServiceSerializer(serializers.Serializer):
    """A time in production and the decisions that began and ended it."""

    model = serializers.CharField(source="version.model.name")
    version = serializers.IntegerField(source="version.pk")
    number = serializers.IntegerField(source="version.number")
    digest = serializers.CharField(source="version.digest")
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True)
    by = serializers.CharField(source="began.by.username")
    reason = serializers.CharField(source="began.reason")


class ModelViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    serializer_class = ModelSerializer
    queryset = Model.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        models = Model.objects.visible_to(user_of(self.request)).select_related("project").prefetch_related("versions")
        if slug := self.request.query_params.get("project"):
            models = models.filter(project__slug=slug)
        return models.order_by("name", "pk")

    @extend_schema(request={"multipart/form-data": ImportModelSerializer}, responses={201: JobSerializer})
    @action(detail=False, methods=["post"], url_path="import", parser_classes=[MultiPartParser])
    def import_file(self, request: Request) -> Response:
        """Import a model that was trained elsewhere; the answer is the job that does it."""
        asked = ImportModelSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        project = find_project(request, values["project"])
        need(request, Action.RUN, project)
        with refusals():
            job = importing.start(
                values["file"],
                values["file"].name,
                project=project,
                name=values["name"],
                manifest=values["manifest"],
                by=user_of(request),
            )
        return Response(JobSerializer(job).data, status=201)

    @extend_schema(request=MakeEnsembleSerializer, responses={201: JobSerializer})
    @action(detail=False, methods=["post"])
    def ensembles(self, request: Request) -> Response:
        """Make one version of several, or one that is asked several times: probabilities are averaged, boxes are fused.
        The answer is the job that does it."""
        asked = MakeEnsembleSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        versions = [find_version(request, pk) for pk in values["versions"]]
        for version in versions:
            need(request, Action.RUN, version.model.project)
        with refusals():
            answers = ensembles.Answers(
                tuple(values["mirror"]), values["shifts"], values["dropout"], values["uncertainty"]
            )
            job = ensembles.start(versions, name=values["name"], answers=answers, by=user_of(request))
        return Response(JobSerializer(job).data, status=201)

    @extend_schema(
        parameters=[OpenApiParameter("project", str), OpenApiParameter("on", str, description="Date or date and time")],
        responses=ServiceSerializer(many=True),
    )
    @action(detail=False, pagination_class=None)
    def production(self, request: Request) -> Response:
        """What was in production on a day (`?on=`, its end; now where left out), by whose decision."""
        with refusals():
            moment = history.moment_of(request.query_params.get("on", ""))
        found = history.in_production(self.get_queryset(), moment)
        return Response(ServiceSerializer(found, many=True).data)


class ModelVersionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=`, `?model=` (id) and `?stage=` narrow the list."""

    serializer_class = ModelVersionSerializer
    queryset = ModelVersion.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        versions = ModelVersion.objects.visible_to(user_of(self.request)).select_related("model__project")
        asked = self.request.query_params
        for name, field in (("project", "model__project__slug"), ("stage", "stage")):
            if value := asked.get(name):
                versions = versions.filter(**{field: value})
        if (value := asked.get("model", "")).isdigit():
            versions = versions.filter(model=int(value))
        return versions

    @extend_schema(request=PromoteSerializer, responses=ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, pk: str) -> Response:
        """Move the version to another stage, signed with a reason. Needs the right to manage the project."""
        version = self.get_object()
        need(request, Action.MANAGE, version.model.project)
        asked = PromoteSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        with refusals():
            version = services.promote(
                version, asked.validated_data["to"], reason=asked.validated_data["reason"], by=user_of(request)
            )
        return Response(ModelVersionSerializer(version).data)

    @extend_schema(responses=OpenApiTypes.OBJECT)
    @action(detail=True, pagination_class=None)
    def card(self, request: Request, pk: str) -> Response:
        """The model card: `sections` that people write (`revision` says who and when), all else is generated."""
        return Response(card.card_of(self.get_object(), user_of(request)))

    @extend_schema(request=WriteCardSerializer, responses=OpenApiTypes.OBJECT)
    @card.mapping.patch
    def write_card(self, request: Request, pk: str) -> Response:
        """Write sections of the card, as a new revision; generated parts cannot be written."""
        version = self.get_object()
        need(request, Action.RUN, version.model.project)
        asked = WriteCardSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        with refusals():
            card_text.write(version, values["sections"], base=values["revision"], by=user_of(request))
        return Response(card.card_of(version, user_of(request)))

    @extend_schema(responses={(200, "text/markdown"): OpenApiTypes.STR})
    @action(detail=True, url_path="card/markdown", pagination_class=None)
    def card_markdown(self, request: Request, pk: str) -> HttpResponse:
        """The model card as Markdown."""
        version = self.get_object()
        text = card_markdown.markdown(card.card_of(version, user_of(request)))
        answer = HttpResponse(text, content_type="text/markdown; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="{version.model.name}-{version.number}-card.md"'
        return answer

    @extend_schema(responses=PromotionSerializer(many=True))
    @action(detail=True, pagination_class=None)
    def promotions(self, request: Request, pk: str) -> Response:
        """Every change of stage, newest first."""
        rows = self.get_object().promotions.select_related("by")
        return Response(PromotionSerializer(rows, many=True).data)
