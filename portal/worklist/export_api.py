"""De-identified exports over REST, for managers: order, follow, sign off text in pixels, fetch."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from portal.worklist.exports import start
from studies.cohorts.models import Cohort
from studies.deid import pixels, services
from studies.deid.burned_in import Box
from studies.deid.errors import DeidError
from studies.deid.models import Export, PixelReview
from studies.deid.options import Option
from studies.deid.profile import Profile
from studies.models import Study


class Refused(APIException):
    """409 with code, cause and next step."""

    status_code = 409

    def __init__(self, error: DeidError):
        detail: Any = {"code": error.code, "cause": error.cause, "next_step": error.next_step}
        self.detail = detail


class ExportSerializer(serializers.ModelSerializer):
    project: Any = serializers.SlugRelatedField(read_only=True, slug_field="slug")
    created_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")

    class Meta:
        model = Export
        fields = [
            "id", "project", "cohort", "profile", "remove", "keep_private", "nifti", "results", "state", "failure",
            "report", "size", "sha256", "created_by", "created_at", "finished_at",
        ]  # fmt: skip


class OrderSerializer(serializers.Serializer):
    """Either `cohort` or `studies`."""

    project = serializers.SlugField()
    cohort = serializers.IntegerField(required=False)
    studies = serializers.ListField(child=serializers.IntegerField(), required=False, max_length=5000)
    options = serializers.ListField(child=serializers.ChoiceField(choices=[str(one) for one in Option]), default=list)
    remove = serializers.ListField(child=serializers.CharField(max_length=80), default=list, max_length=200)
    keep_private = serializers.ListField(child=serializers.CharField(max_length=120), default=list, max_length=200)
    nifti = serializers.BooleanField(default=False)
    results = serializers.BooleanField(default=False)


class PixelReviewSerializer(serializers.ModelSerializer):
    by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")

    class Meta:
        model = PixelReview
        fields = ["id", "series", "looked_at", "frames", "reasons", "boxes", "decision", "blanked", "by", "at"]


class SignSerializer(serializers.Serializer):
    """`blanked`: [[top, left, bottom, right], …] in pixels, of every frame; left out, all places that were found."""

    review = serializers.IntegerField()
    decision = serializers.ChoiceField(choices=PixelReview.Decision.choices)
    blanked = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField(min_value=0), min_length=4, max_length=4),
        required=False,
        max_length=200,
    )


class ExportViewSet(mixins.CreateModelMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Managers only. `?project=` narrows the list. An export runs as a job."""

    serializer_class = ExportSerializer
    queryset = Export.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        user = _user(self.request)
        found = Export.objects.visible_to(user).select_related("project", "created_by").order_by("-id")
        if self.action == "list":
            found = found.filter(project__in=projects_where(user, Action.MANAGE)).defer("report")
            if project := self.request.query_params.get("project"):
                found = found.filter(project__slug=project)
        return found

    def get_serializer(self, *args: Any, **kwargs: Any):
        made = super().get_serializer(*args, **kwargs)
        if self.action == "list":
            made.child.fields.pop("report")
        return made

    def get_object(self) -> Export:
        export = super().get_object()
        _need_manager(self.request, export.project)
        return export

    @extend_schema(request=OrderSerializer, responses={201: ExportSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        asked = OrderSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values, user = asked.validated_data, _user(request)
        project = get_object_or_404(Project.objects.visible_to(user), slug=values["project"])
        _need_manager(request, project)
        cohort = None
        if "cohort" in values:
            cohort = get_object_or_404(Cohort.objects.visible_to(user), pk=values["cohort"], project=project)
        wanted = set(values.get("studies", []))
        studies = list(Study.objects.visible_to(user).filter(pk__in=wanted, project=project))
        if len(studies) < len(wanted) or (cohort is None) == (not wanted):
            raise serializers.ValidationError({"studies": ["Name a cohort, or studies of the project, not both."]})
        try:
            profile = Profile.parse(",".join(values["options"]), values["remove"], values["keep_private"])
            export = services.order(
                project=project, profile=profile, by=user, cohort=cohort, studies=studies,
                nifti=values["nifti"], results=values["results"],
            )  # fmt: skip
        except DeidError as error:
            raise Refused(error) from error
        start(export, user)
        return Response(ExportSerializer(export).data, status=201)

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    @action(detail=True)
    def file(self, request: Request, pk: str) -> FileResponse:
        """The zip archive. 409 while there is none."""
        export = self.get_object()
        try:
            return FileResponse(
                services.read_zip(export), as_attachment=True, filename=f"readroom-export-{export.pk}.zip"
            )
        except DeidError as error:
            raise Refused(error) from error

    @action(detail=True, serializer_class=PixelReviewSerializer, pagination_class=None)
    def pixels(self, request: Request, pk: str) -> Response:
        """Series with suspected text in their pixels, signed or not."""
        reviews = services.reviews_of(self.get_object()).select_related("by").order_by("pk")
        return Response(PixelReviewSerializer(reviews, many=True).data)

    @extend_schema(request=SignSerializer, responses=PixelReviewSerializer)
    @action(detail=True, methods=["post"], serializer_class=SignSerializer)
    def sign(self, request: Request, pk: str) -> Response:
        """Decide about one series; after the last open one a waiting export goes on. 409 while it is in the making."""
        export = self.get_object()
        asked = SignSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        review = get_object_or_404(services.reviews_of(export), pk=values["review"])
        places = [Box(*place) for place in values["blanked"]] if "blanked" in values else None
        try:
            if export.state == Export.State.QUEUED:
                raise DeidError("busy", "The export is in the making.", "Sign when it is done or waits.")
            review = pixels.sign(review, decision=values["decision"], by=_user(request), blanked=places)
        except DeidError as error:
            raise Refused(error) from error
        if export.state == Export.State.BLOCKED and not services.reviews_of(export).waiting().exists():
            start(export, _user(request))
        return Response(PixelReviewSerializer(review).data)


def _user(request: Request) -> User:
    """Permission classes let nobody in who is not signed in."""
    assert isinstance(request.user, User)
    return request.user


def _need_manager(request: Request, project: Project) -> None:
    if not may(_user(request), Action.MANAGE, project):
        raise PermissionDenied("Only managers of the project export its studies.")
