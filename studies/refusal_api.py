"""The quarantine over REST: what was refused and why, another attempt, and decisions."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.permissions import Action, may, projects_where
from studies.ingest import quarantine
from studies.models import Refusal


def _user(request: Request) -> Any:
    return request.user  # signed in: the permission classes see to it


class CannotBeDone(APIException):
    status_code = 409
    default_code = "conflict"


class RefusalSerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="batch.project.slug")
    batch: Any = serializers.PrimaryKeyRelatedField(read_only=True)
    source: Any = serializers.CharField(source="batch.source")
    by: Any = serializers.SlugRelatedField(source="batch.created_by", read_only=True, slug_field="username")
    settled_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    kept = serializers.SerializerMethodField()

    class Meta:
        model = Refusal
        fields = [
            "id", "project", "batch", "source", "by", "name", "code", "reason", "size", "kept", "sop_instance_uid",
            "state", "settled_at", "settled_by", "created_at",
        ]  # fmt: skip

    def get_kept(self, refusal: Refusal) -> bool:
        """Whether the bytes are in the quarantine."""
        return bool(refusal.file) and refusal.state in (Refusal.State.OPEN, Refusal.State.KEPT)


class RefusalViewSet(viewsets.ReadOnlyModelViewSet):
    """Refused files of projects into which the user may import; `?project=<slug>`, `?code=`, `?state=` narrow the list.

    `POST …/retry/` sends the file through the store again. Managers decide: `POST …/keep/` (of a conflict, the stored
    object counts), `POST …/discard/` (the bytes are deleted), and `GET …/file/` hands out the bytes.
    """

    serializer_class = RefusalSerializer
    queryset = Refusal.objects.none()

    def get_queryset(self) -> Any:
        user: Any = self.request.user
        # File names may name patients; whoever may not import (a blinded reader) does not see them.
        found = Refusal.objects.visible_to(user).filter(batch__project__in=projects_where(user, Action.IMPORT))
        query = self.request.query_params
        for name, column in (("project", "batch__project__slug"), ("code", "code"), ("state", "state")):
            if name in query:
                found = found.filter(**{column: query[name]})
        return found.select_related("batch__project", "batch__created_by", "settled_by", "created_by").order_by("-pk")

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str = "") -> Response:
        return self._done(lambda refusal: quarantine.retry(refusal, by=_user(request)))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def keep(self, request: Request, pk: str = "") -> Response:
        self._require_manager()
        return self._done(lambda refusal: quarantine.keep_stored(refusal, by=_user(request)))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def discard(self, request: Request, pk: str = "") -> Response:
        self._require_manager()
        return self._done(lambda refusal: quarantine.discard(refusal, by=_user(request)))

    @extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    @action(detail=True, methods=["get"])
    def file(self, request: Request, pk: str = "") -> FileResponse:
        refusal = self._require_manager()
        try:
            path = quarantine.path_of(refusal)
        except quarantine.QuarantineError as error:
            raise CannotBeDone(str(error)) from error
        name = f"refused-{refusal.pk}.bin"
        return FileResponse(
            open(path, "rb"), as_attachment=True, filename=name, content_type="application/octet-stream"
        )

    def _require_manager(self) -> Refusal:
        refusal = self.get_object()
        if not may(self.request.user, Action.MANAGE, refusal.batch.project):  # type: ignore[arg-type]
            raise PermissionDenied("Managers of the project decide on refused files.")
        return refusal

    def _done(self, step: Any) -> Response:
        refusal = self.get_object()
        try:
            step(refusal)
        except quarantine.QuarantineError as error:
            raise CannotBeDone(str(error)) from error
        return Response(self.get_serializer(self.get_object()).data)
