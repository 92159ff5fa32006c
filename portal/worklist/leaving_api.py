"""Deleting a study and moving it to another project over REST, by the services that the page uses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.models import Project
from portal.accounts.permissions import Action, may
from portal.worklist import leaving
from studies.api import StudySerializer, StudyViewSet
from studies.models import Study
from studies.removal import RemovalError


class Stays(APIException):
    """409 with cause and next step."""

    status_code = 409

    def __init__(self, error: RemovalError) -> None:
        detail: Any = {"cause": error.cause, "next_step": error.next_step}
        self.detail = detail


class ConfirmSerializer(serializers.Serializer):
    confirm = serializers.CharField(help_text="The StudyInstanceUID, so that nothing is deleted by accident")


class MoveStudySerializer(serializers.Serializer):
    project = serializers.SlugField(help_text="Of the other project, of which the user has to be manager, too")


class StudiesViewSet(StudyViewSet):
    """Studies that the user may see; `?project=<slug>`, `?study_instance_uid=`, `?patient_id=` narrow the list.

    Managers delete a study (`DELETE` with `confirm`: its StudyInstanceUID) or move it to another project
    (`POST …/move/`); `GET …/stakes/` says what goes with it, and what forbids it.
    """

    http_method_names = ["get", "post", "delete", "head", "options"]

    @action(detail=True)
    def stakes(self, request: Request, pk: str = "") -> Response:
        """What hangs on the study; with an entry in `obstacles` it has to stay."""
        return Response(asdict(leaving.stakes(self._managed())))

    @extend_schema(request=ConfirmSerializer, responses={204: None})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete it for good with its results, annotations and clinical values. 409 where it has to stay."""
        study = self._managed()
        asked = ConfirmSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if asked.validated_data["confirm"] != study.study_instance_uid:
            raise ValidationError({"confirm": ["This is not the StudyInstanceUID of the study. Nothing was deleted."]})
        user: Any = request.user
        try:
            leaving.delete(study, by=user)
        except RemovalError as error:
            raise Stays(error) from None
        return Response(status=204)

    @extend_schema(request=MoveStudySerializer, responses={200: StudySerializer})
    @action(detail=True, methods=["post"])
    def move(self, request: Request, pk: str = "") -> Response:
        """Images and annotations go along; results and clinical values are deleted. 409 where it has to stay."""
        study = self._managed()
        asked = MoveStudySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        user: Any = request.user
        project = Project.objects.visible_to(user).filter(slug=asked.validated_data["project"]).first()
        if project is None:
            raise Http404
        try:
            moved = leaving.move(study, project, by=user)
        except RemovalError as error:
            raise Stays(error) from None
        return Response(StudySerializer(Study.objects.select_related("project", "patient").get(pk=moved.pk)).data)

    def _managed(self) -> Study:
        study = self.get_object()
        user: Any = self.request.user
        if not may(user, Action.MANAGE, study.project):
            raise PermissionDenied("Managers of the project delete and move its studies.")
        return study
