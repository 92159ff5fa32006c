"""Nodes over REST: the list, C-ECHO, searches, retrievals and sending. Administrators write nodes down."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from inference.jobs.api import JobSerializer
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from portal.pacs import transfers
from studies.dimse import nodes, remote
from studies.dimse.errors import NodeError, RemoteError
from studies.dimse.models import RemoteNode
from studies.models import Study


class RemoteFailed(APIException):
    """The remote refused or did not answer."""

    status_code = 424  # failed dependency: 502 would be our own proxy's
    default_code = "remote"


class ChangesByAdministrators(BasePermission):
    message = "Administrators write down other systems."

    def has_permission(self, request: Any, view: Any) -> bool:
        return view.action not in ("create", "partial_update", "destroy") or request.user.is_superuser


class NodeSerializer(serializers.ModelSerializer):
    project: Any = serializers.SlugRelatedField(slug_field="slug", queryset=Project.objects.all())
    addresses = serializers.ListField(child=serializers.CharField(max_length=43), required=False)
    services = serializers.ListField(child=serializers.ChoiceField(RemoteNode.Service.choices), required=False)
    token = serializers.CharField(write_only=True, required=False, allow_blank=True, max_length=2000)

    class Meta:
        model = RemoteNode
        fields = [
            "id", "project", "name", "kind", "active", "ae_title", "host", "port", "tls", "called_ae_title",
            "addresses", "services", "include_results", "retrieve_by", "url", "token", "created_at",
        ]  # fmt: skip
        validators: list[Any] = []  # the service has the words for what does not fit

    def create(self, validated_data: dict[str, Any]) -> RemoteNode:
        return nodes.create(validated_data.pop("project"), self.context["request"].user, **validated_data)

    def update(self, instance: RemoteNode, validated_data: dict[str, Any]) -> RemoteNode:
        if validated_data.pop("project", instance.project) != instance.project:
            raise ValidationError({"project": "What came from a node stays in its project, so the node does, too."})
        return nodes.change(instance, **validated_data)

    def save(self, **keywords: Any) -> RemoteNode:
        try:
            return super().save(**keywords)
        except NodeError as error:
            raise ValidationError({"detail": str(error)}) from error


class WantedSerializer(serializers.Serializer):
    """What to look for; `*` and `?` are wildcards."""

    patient_id = serializers.CharField(max_length=64, required=False)
    patient_name = serializers.CharField(max_length=64, required=False)
    accession_number = serializers.CharField(max_length=16, required=False)
    modality = serializers.CharField(max_length=16, required=False)
    first_day = serializers.DateField(required=False)
    last_day = serializers.DateField(required=False)
    study_instance_uid = serializers.CharField(max_length=64, required=False)


class RetrieveSerializer(serializers.Serializer):
    studies = serializers.ListField(child=serializers.CharField(max_length=64), help_text="StudyInstanceUIDs")


class SendSerializer(serializers.Serializer):
    studies = serializers.ListField(child=serializers.IntegerField(), help_text="Numbers of studies of the project")
    what = serializers.ChoiceField(transfers.What.choices, default=transfers.What.ALL)


class NodeViewSet(viewsets.ModelViewSet):
    """Other imaging systems of projects into which the user may import; `?project=<slug>` narrows the list.

    `POST …/echo/` tests one, `POST …/find/` searches it (in the body, as it names patients), `POST …/retrieve/` brings
    studies into its project and `POST …/send/` sends studies to it, both as jobs.
    """

    serializer_class = NodeSerializer
    queryset = RemoteNode.objects.none()
    permission_classes = [IsAuthenticated, ChangesByAdministrators]
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]

    def get_queryset(self) -> Any:
        user: Any = self.request.user
        found = RemoteNode.objects.visible_to(user)
        if self.action in ("list", "retrieve"):
            found = found.filter(project__in=projects_where(user, Action.IMPORT))
        if "project" in self.request.query_params:
            found = found.filter(project__slug=self.request.query_params["project"])
        return found.select_related("project").order_by("project__slug", "name")

    def perform_destroy(self, instance: RemoteNode) -> None:
        nodes.remove(instance)

    def _usable(self) -> RemoteNode:
        node = self.get_object()
        if not may(self.request.user, Action.IMPORT, node.project):  # type: ignore[arg-type]
            raise PermissionDenied("Your role in this project does not allow this with other systems.")
        return node

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def echo(self, request: Request, pk: str = "") -> Response:
        node = self._usable()
        try:
            return Response({"milliseconds": round(1000 * remote.echo(node))})
        except RemoteError as error:
            raise RemoteFailed(str(error)) from error

    @extend_schema(request=WantedSerializer)
    @action(detail=True, methods=["post"])
    def find(self, request: Request, pk: str = "") -> Response:
        node = self._usable()
        wanted = WantedSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            found, complete = remote.find(node, remote.Wanted(**wanted.validated_data), watched=True)
        except RemoteError as error:
            raise RemoteFailed(str(error)) from error
        return Response({"complete": complete, "studies": [asdict(one) for one in found]})

    @extend_schema(request=RetrieveSerializer, responses={202: JobSerializer})
    @action(detail=True, methods=["post"], url_path="retrieve")
    def retrieve_studies(self, request: Request, pk: str = "") -> Response:
        node = self._usable()
        asked = RetrieveSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        return self._started(lambda user: transfers.start_retrieval(node, asked.validated_data["studies"], by=user))

    @extend_schema(request=SendSerializer, responses={202: JobSerializer})
    @action(detail=True, methods=["post"])
    def send(self, request: Request, pk: str = "") -> Response:
        node = self._usable()
        asked = SendSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        user: Any = request.user
        keys = set(asked.validated_data["studies"])
        studies = list(Study.objects.visible_to(user).filter(pk__in=keys, project=node.project).order_by("pk"))
        if len(studies) != len(keys):
            raise ValidationError({"studies": "Not all of these are studies of the node's project."})
        return self._started(lambda by: transfers.start_sending(node, studies, asked.validated_data["what"], by=by))

    def _started(self, start: Any) -> Response:
        try:
            job = start(self.request.user)
        except RemoteError as error:
            raise ValidationError({"detail": str(error)}) from error
        return Response(JobSerializer(job, context=self.get_serializer_context()).data, status=202)
