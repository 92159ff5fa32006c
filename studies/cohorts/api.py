"""Cohorts and reference standards over REST.

Whoever sees a project sees its cohorts; changing them needs the right to curate.
"""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from django.shortcuts import get_object_or_404
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.models import Project, Role, User
from portal.accounts.permissions import Action, may, role_in
from studies.cohorts import services
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.cohorts.splits import DEFAULT_FRACTIONS
from studies.models import Study


def _user(request: Request) -> User:
    """Permission classes let nobody in who is not signed in."""
    assert isinstance(request.user, User)
    return request.user


class Refused(APIException):
    """What the services refuse: 409 with code, cause and next step."""

    status_code = 409

    def __init__(self, error: CohortError):
        detail: Any = {"code": error.code, "cause": error.cause, "next_step": error.next_step}
        self.detail = detail


class CohortSerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="project.slug")
    frozen = serializers.BooleanField(read_only=True)
    created_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    frozen_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    cases = serializers.SerializerMethodField()
    splits = serializers.SerializerMethodField()
    method: Any = serializers.JSONField(read_only=True)

    class Meta:
        model = Cohort
        fields = [
            "id", "project", "name", "description", "frozen", "frozen_at", "frozen_by", "seed", "method", "digest",
            "cases", "splits", "created_at", "created_by",
        ]  # fmt: skip
        read_only_fields = ["frozen_at", "seed", "digest", "created_at"]
        # The service says in words which name is taken.
        validators: list[Any] = []

    def _counts(self, cohort: Cohort) -> dict[str, int]:
        context: Any = self.context
        counts = context.setdefault("counts", {})
        if cohort.pk not in counts:
            rows = cohort.cases.order_by().values_list("cohort_patient__split").annotate(n=Count("id"))
            counts[cohort.pk] = dict(rows)
        return counts[cohort.pk]

    def get_cases(self, cohort: Cohort) -> int:
        return sum(self._counts(cohort).values())

    def get_splits(self, cohort: Cohort) -> dict[str, int]:
        """Cases on each side; empty while the cohort is open."""
        return {split: n for split, n in self._counts(cohort).items() if split}


class CaseSerializer(serializers.ModelSerializer):
    """For readers without study and image: a reader who could follow a case to its patient would not read blinded."""

    split = serializers.CharField(source="cohort_patient.split")
    fold = serializers.IntegerField(source="cohort_patient.fold", allow_null=True)

    class Meta:
        model = Case
        fields = ["id", "name", "study", "image", "split", "fold"]

    def to_representation(self, instance: Case) -> dict[str, Any]:
        shown = super().to_representation(instance)
        if self.context.get("blind"):
            shown |= {"study": None, "image": None}
        return shown


class StudiesSerializer(serializers.Serializer):
    studies = serializers.ListField(child=serializers.IntegerField(), allow_empty=False, max_length=5000)


class FreezeSerializer(serializers.Serializer):
    fractions = serializers.DictField(child=serializers.FloatField(), default=lambda: dict(DEFAULT_FRACTIONS))
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, default=1)
    folds = serializers.IntegerField(min_value=0, max_value=20, default=0, help_text="0: by shares")
    leave_source_out = serializers.BooleanField(default=False)
    classes: Any = serializers.PrimaryKeyRelatedField(
        queryset=ReferenceStandard.objects.none(), required=False, allow_null=True, default=None
    )
    source: Any = serializers.CharField(default="", allow_blank=True, help_text="A variable's name, or manufacturer")
    stratify_source = serializers.BooleanField(default=False)

    def __init__(self, *args: Any, cohort: Cohort | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if cohort is not None:
            self.fields["classes"].queryset = cohort.reference_standards.all()  # type: ignore[attr-defined]


class ReferenceSerializer(serializers.ModelSerializer):
    created_by: Any = serializers.SlugRelatedField(read_only=True, slug_field="username")
    cases = serializers.IntegerField(read_only=True)

    class Meta:
        model = ReferenceStandard
        fields = [
            "id", "cohort", "name", "version", "source", "kind", "classes", "labels", "detail", "cases", "created_at",
            "created_by",
        ]  # fmt: skip


class CohortViewSet(mixins.CreateModelMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=` narrows the list."""

    serializer_class = CohortSerializer
    queryset = Cohort.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        found = Cohort.objects.visible_to(_user(self.request)).select_related("project", "created_by", "frozen_by")
        if project := self.request.query_params.get("project"):
            found = found.filter(project__slug=project)
        return found.order_by("-id")

    def get_serializer_context(self) -> dict[str, Any]:
        context = dict(super().get_serializer_context())
        if self.action == "list" and self.request is not None:
            # One query for the whole list; cohorts without cases have no row.
            counts: dict[int, dict[str, int]] = {pk: {} for pk in self.get_queryset().values_list("pk", flat=True)}
            rows = Case.objects.filter(cohort__in=counts).order_by().values_list("cohort", "cohort_patient__split")
            for pk, split, n in rows.annotate(n=Count("id")):
                counts[pk][split] = n
            context["counts"] = counts
        return context

    def perform_create(self, serializer) -> None:
        values = serializer.validated_data
        project = get_object_or_404(Project.objects.visible_to(_user(self.request)), slug=values["project"]["slug"])
        self._curator(project)
        try:
            serializer.instance = services.create(
                project=project,
                name=values["name"],
                description=values.get("description", ""),
                by=_user(self.request),
            )
        except CohortError as error:
            raise Refused(error) from error

    @action(detail=True, serializer_class=CaseSerializer)
    def cases(self, request: Request, pk: str) -> Response:
        """Cases with their side of the split, by pages."""
        cohort = self.get_object()
        page = self.paginate_queryset(cohort.cases.select_related("cohort_patient").order_by("name", "id"))
        blind = role_in(_user(request), cohort.project) is Role.READER
        return self.get_paginated_response(CaseSerializer(page, many=True, context={"blind": blind}).data)

    @action(detail=True, methods=["post"], serializer_class=StudiesSerializer)
    def add_studies(self, request: Request, pk: str) -> Response:
        """Make cases of studies (ids). 404 where one cannot be seen, 409 where the cohort is frozen."""
        cohort = self.get_object()
        self._curator(cohort.project)
        asked = StudiesSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = list(dict.fromkeys(asked.validated_data["studies"]))
        found = {study.pk: study for study in Study.objects.visible_to(_user(request)).filter(pk__in=wanted)}
        if len(found) < len(wanted):
            return Response({"detail": "Not every study was found."}, status=404)
        try:
            added = services.add_studies(cohort, [found[pk] for pk in wanted])
        except CohortError as error:
            raise Refused(error) from error
        return Response(
            {
                "cases": CaseSerializer(added.cases, many=True).data,
                "already": [case.pk for case in added.already],
                "without_image": [study.pk for study in added.without_image],
            }
        )

    @action(detail=True, methods=["post"], serializer_class=FreezeSerializer)
    def freeze(self, request: Request, pk: str) -> Response:
        """Fix the members and split them by patient: `{"fractions": {"train": 0.7, …}, "seed": 1}`, or `{"folds": 5}`.

        With `folds` only the fraction of `test` counts; without fractions nothing is held out.
        """
        cohort = self.get_object()
        self._curator(cohort.project)
        asked = FreezeSerializer(data=request.data, cohort=cohort)
        asked.is_valid(raise_exception=True)
        design = asked.validated_data
        if design["folds"] and "fractions" not in request.data:
            design["fractions"] = {}
        try:
            cohort = services.freeze(cohort, by=_user(request), **design)
        except CohortError as error:
            raise Refused(error) from error
        return Response(CohortSerializer(cohort, context=self.get_serializer_context()).data)

    def _curator(self, project: Project) -> None:
        if not may(_user(self.request), Action.CURATE, project):
            raise PermissionDenied("Only managers and engineers of the project change its cohorts.")


class ReferenceViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?cohort=` and `?project=` narrow the list."""

    serializer_class = ReferenceSerializer
    queryset = ReferenceStandard.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self):
        found = ReferenceStandard.objects.visible_to(_user(self.request)).select_related("created_by")
        asked = self.request.query_params
        if (cohort := asked.get("cohort", "")).isdecimal() and len(cohort) < 18:
            found = found.filter(cohort=int(cohort))
        if project := asked.get("project"):
            found = found.filter(cohort__project__slug=project)
        return found.annotate(cases=Count("case_labels")).order_by("-id")
