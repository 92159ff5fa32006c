"""Studies and series over REST (read only), and uploads."""

from __future__ import annotations

from typing import Any, ClassVar

from django.shortcuts import get_object_or_404
from rest_framework import mixins, serializers, viewsets
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from studies.ingest.importing import import_uploads
from studies.ingest.store import open_batch
from studies.models import ImportBatch, Refusal, Series, Study


class StudySerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="project.slug")
    patient_id = serializers.CharField(source="patient.patient_id")
    patient_name = serializers.CharField(source="patient.patient_name")
    patient_birth_date = serializers.DateField(source="patient.patient_birth_date")
    patient_sex = serializers.CharField(source="patient.patient_sex")

    class Meta:
        model = Study
        fields = [
            "id", "project", "study_instance_uid", "patient_id", "patient_name", "patient_birth_date", "patient_sex",
            "study_date", "study_time", "study_id", "study_description", "accession_number", "synthetic", "created_at",
        ]  # fmt: skip


class SeriesSerializer(serializers.ModelSerializer):
    study: Any = serializers.PrimaryKeyRelatedField(read_only=True)
    study_instance_uid = serializers.CharField(source="study.study_instance_uid")
    project = serializers.SlugField(source="study.project.slug")
    created_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")

    class Meta:
        model = Series
        fields = [
            "id", "project", "study", "study_instance_uid", "series_instance_uid", "modality", "series_number",
            "series_description", "series_date", "body_part_examined", "laterality", "number_of_instances", "origin",
            "created_by", "provenance", "created_at",
        ]  # fmt: skip


class StudyViewSet(viewsets.ReadOnlyModelViewSet):
    """Studies that the user may see; `?project=<slug>`, `?study_instance_uid=`, `?patient_id=` narrow the list."""

    serializer_class = StudySerializer
    queryset = Study.objects.none()

    def get_queryset(self) -> Any:
        user: Any = self.request.user
        found = Study.objects.visible_to(user).select_related("project", "patient").order_by("-pk")
        query = self.request.query_params
        for name, column in (
            ("project", "project__slug"),
            ("study_instance_uid", "study_instance_uid"),
            ("patient_id", "patient__patient_id"),
        ):
            if name in query:
                found = found.filter(**{column: query[name]})
        return found


class SeriesViewSet(viewsets.ReadOnlyModelViewSet):
    """Series that the user may see; `?study=<id>`, `?modality=`, `?origin=` narrow the list."""

    serializer_class = SeriesSerializer
    queryset = Series.objects.none()

    def get_queryset(self) -> Any:
        user: Any = self.request.user
        found = Series.objects.visible_to(user).select_related("study__project", "created_by").order_by("pk")
        query = self.request.query_params
        if "study" in query:
            if not query["study"].isdigit():
                raise ValidationError({"study": "The number of a study is needed."})
            found = found.filter(study=int(query["study"]))
        for name in ("modality", "origin", "series_instance_uid"):
            if name in query:
                found = found.filter(**{name: query[name]})
        return found


class RefusalSerializer(serializers.ModelSerializer):
    class Meta:
        model = Refusal
        fields: ClassVar[list[str]] = ["name", "code", "reason", "created_at"]


class BatchSerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="project.slug")
    refusals = RefusalSerializer(many=True)

    class Meta:
        model = ImportBatch
        fields: ClassVar[list[str]] = [
            "id", "project", "source", "created_at", "stored", "duplicate", "refused", "refusals",
        ]  # fmt: skip


class ImportViewSet(mixins.RetrieveModelMixin, mixins.CreateModelMixin, viewsets.GenericViewSet):
    """Upload DICOM files and zip archives as multipart/form-data: `project` (slug) or `batch` (number of an import of
    one's own that is to be continued), and any number of `files`. The answer has an outcome for each file."""

    serializer_class = BatchSerializer
    parser_classes = (MultiPartParser,)
    queryset = ImportBatch.objects.none()

    def get_queryset(self) -> Any:
        user: Any = self.request.user
        # File names may name patients; whoever may not import (a blinded reader) does not see them.
        own = ImportBatch.objects.visible_to(user).filter(project__in=projects_where(user, Action.IMPORT))
        return own.select_related("project").prefetch_related("refusals")

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        batch = self._batch(request)
        data: Any = request.data
        names = data.getlist("names")
        files = request.FILES.getlist("files")
        if not files:
            raise ValidationError({"files": "No file was sent."})
        named = [(file, names[k] if k < len(names) else file.name or "") for k, file in enumerate(files)]
        summary = import_uploads(named, batch=batch, by=request.user)  # type: ignore[arg-type]
        return Response(summary.as_json(), status=201)

    def _batch(self, request: Request) -> ImportBatch:
        user: Any = request.user
        data: Any = request.data
        number = str(data.get("batch") or "")
        if number:
            if not number.isdigit():
                raise ValidationError({"batch": "The number of an import is needed."})
            own = ImportBatch.objects.visible_to(user).filter(created_by=user, source=ImportBatch.Source.UPLOAD)
            batch = get_object_or_404(own.select_related("project"), pk=int(number))
            self._require(batch.project)
            return batch
        slug = str(data.get("project") or "")
        project = Project.objects.visible_to(user).filter(slug=slug).first()
        if project is None:
            raise NotFound(f"There is no project “{slug[:60]}” that you may see.")
        self._require(project)
        return open_batch(project, ImportBatch.Source.UPLOAD, user)

    def _require(self, project: Project) -> None:
        if not may(self.request.user, Action.IMPORT, project):  # type: ignore[arg-type]
            raise PermissionDenied("Your role in this project does not allow importing.")
