"""The audit trail over REST, for administrators and managers."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.audit.models import AuditEvent
from portal.trail.search import BadSearch, Search
from portal.trail.views import require_auditor

SIZE = 200


class AuditSerializer(serializers.ModelSerializer):
    user: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    project: Any = serializers.SlugRelatedField(read_only=True, slug_field="slug")

    class Meta:
        model = AuditEvent
        fields = [
            "id", "time", "user", "token_id", "action", "object_kind", "object_id", "project", "patient", "address",
            "request_id", "outcome", "detail",
        ]  # fmt: skip


class AuditViewSet(viewsets.ViewSet):
    """Rows newest first, 200 a page. `?user=` (name), `project=` (short name), `patient=` (number of the patient),
    `action=` (`study.read`, or `study` for all of studies), `outcome=`, `since=` and `until=` (days) narrow the list;
    `before=` goes on after a row: `next` of the page before."""

    @extend_schema(
        responses=AuditSerializer(many=True),
        parameters=[
            OpenApiParameter(name, str)
            for name in ("user", "project", "patient", "action", "outcome", "since", "until", "before")
        ],
    )
    def list(self, request: Request) -> Response:
        user: Any = request.user
        require_auditor(user)
        try:
            rows, after = Search.of(request.query_params).page(user, SIZE)
        except BadSearch as error:
            raise ValidationError({"detail": str(error)}) from error
        return Response({"next": after, "results": AuditSerializer(rows, many=True).data})
