"""Clinical variables and values, tables on their way in, and pairs of near-duplicates over REST."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from django.shortcuts import get_object_or_404
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from studies.cohorts import table_imports
from studies.cohorts.api import Refused
from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Cohort
from studies.cohorts.tables import Choices
from studies.duplicates import services as duplicates
from studies.duplicates.models import Pair
from studies.tabular.problems import TableError


def _user(request: Request) -> User:
    """Permission classes let nobody in who is not signed in."""
    assert isinstance(request.user, User)
    return request.user


def _sent(request: Request) -> dict[str, Any]:
    """The object in the body; an empty one for anything else."""
    return request.data if isinstance(request.data, dict) else {}


def _curator(user: User, project: Project) -> None:
    if not may(user, Action.CURATE, project):
        raise PermissionDenied("Only managers and engineers of the project import tables.")


class VariableSerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="project.slug")
    values = serializers.IntegerField(source="n_values", read_only=True)

    class Meta:
        model = ClinicalVariable
        fields = ["id", "project", "name", "kind", "unit", "role", "values", "created_at"]


class ValueSerializer(serializers.ModelSerializer):
    variable = serializers.CharField(source="variable.name")

    class Meta:
        model = ClinicalValue
        fields = ["id", "variable", "patient", "study", "measured_at", "number", "text", "date", "event"]


class VariableViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """`?project=` narrows the list."""

    serializer_class = VariableSerializer
    queryset = ClinicalVariable.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self) -> Any:
        found = ClinicalVariable.objects.visible_to(_user(self.request)).select_related("project")
        if project := self.request.query_params.get("project"):
            found = found.filter(project__slug=project)
        return found.annotate(n_values=Count("values")).order_by("project", "name")


class ValueViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """Patients and studies are the portal's keys. `?variable=`, `?patient=`, `?study=`, `?project=` narrow the list."""

    serializer_class = ValueSerializer
    queryset = ClinicalValue.objects.none()

    def get_queryset(self) -> Any:
        found = ClinicalValue.objects.visible_to(_user(self.request)).select_related("variable")
        query = self.request.query_params
        for name in ("variable", "patient", "study"):
            if value := query.get(name):
                if not (value.isdecimal() and len(value) < 18):
                    raise ValidationError({name: "This is no number."})
                found = found.filter(**{name: int(value)})
        if project := query.get("project"):
            found = found.filter(variable__project__slug=project)
        return found.order_by("pk")


class TableSerializer(serializers.ModelSerializer):
    project = serializers.SlugField(source="project.slug", read_only=True)

    class Meta:
        model = TableImport
        fields = [
            "id",
            "project",
            "purpose",
            "cohort",
            "name",
            "state",
            "choices",
            "result",
            "created_at",
            "finished_at",
        ]


class NewTableSerializer(serializers.Serializer):
    project = serializers.SlugField()
    purpose = serializers.ChoiceField(choices=TableImport.Purpose.choices, default=TableImport.Purpose.VARIABLES)
    cohort = serializers.IntegerField(required=False)
    file = serializers.FileField()
    encoding = serializers.CharField(required=False, default="")
    sheet = serializers.CharField(required=False, default="")


class TableViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Upload a table (POST, multipart), see its problems (`preview`), say what its columns are (`choose`), import it
    (`finish`): all of it or nothing."""

    serializer_class = TableSerializer
    queryset = TableImport.objects.none()
    lookup_value_regex = r"\d+"
    parser_classes = [MultiPartParser, FormParser, JSONParser]

    def get_queryset(self) -> Any:
        found = TableImport.objects.visible_to(_user(self.request)).select_related("project", "cohort")
        if project := self.request.query_params.get("project"):
            found = found.filter(project__slug=project)
        return found.order_by("-pk")

    def create(self, request: Request) -> Response:
        """Keep a file; the answer has what its columns seem to be."""
        user = _user(request)
        slug = str(_sent(request).get("project", ""))
        project = get_object_or_404(Project.objects.visible_to(user), slug=slug)
        _curator(user, project)
        asked = NewTableSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        cohort = None
        if values.get("cohort"):
            cohort = get_object_or_404(Cohort.objects.visible_to(user).filter(project=project), pk=values["cohort"])
        record = self._answered(
            lambda: table_imports.keep(
                values["file"].read(),
                project=project,
                purpose=values["purpose"],
                name=values["file"].name,
                by=user,
                cohort=cohort,
                reading_as={"encoding": values["encoding"], "sheet": values["sheet"]},
            )
        )
        return Response(TableSerializer(record).data, status=201)

    @action(detail=True)
    def preview(self, request: Request, pk: str) -> Response:
        """What an import would do, and every problem by row and column."""
        record = self.get_object()
        return Response(self._answered(lambda: table_imports.preview(record)).as_json())

    @action(detail=True, methods=["post"])
    def choose(self, request: Request, pk: str) -> Response:
        """Say what the columns are: the object `choices` as `retrieve` gives it, changed."""
        record = self.get_object()
        stored = _sent(request).get("choices")
        if not isinstance(stored, dict):
            raise ValidationError({"choices": "An object is needed."})
        try:
            choices = Choices.of({**record.choices, **stored})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValidationError({"choices": "They are not of the form that was given out."}) from error
        reading_as = stored.get("reading", record.choices.get("reading", {}))
        extra = {key: str(stored[key])[:80] for key in ("reference", "source") if key in stored}
        record = self._answered(lambda: table_imports.choose(record, choices, reading_as, extra))
        return Response(TableSerializer(record).data)

    @action(detail=True, methods=["post"])
    def finish(self, request: Request, pk: str) -> Response:
        """Import the table. 409 with the problems where there are any; nothing is written then."""
        record = self.get_object()
        user = _user(request)
        return Response(self._answered(lambda: table_imports.finish(record, by=user)).as_json())

    @action(detail=True, methods=["post"])
    def discard(self, request: Request, pk: str) -> Response:
        """Forget the file."""
        table_imports.discard(self.get_object())
        return Response({"state": TableImport.State.DISCARDED})

    def _answered(self, do: Any) -> Any:
        try:
            return do()
        except CohortError as error:
            raise Refused(error) from error
        except TableError as error:
            detail: dict[str, Any] = {"code": error.code, "cause": error.cause, "row": error.problem.row}
            raise ValidationError(detail) from error


class PairSerializer(serializers.ModelSerializer):
    studies = serializers.SerializerMethodField()

    class Meta:
        model = Pair
        fields = ["id", "one", "other", "studies", "distance", "state", "found_at"]

    def get_studies(self, pair: Pair) -> list[int]:
        return [pair.one.study_id, pair.other.study_id]


class PairViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """Series of different patients that look the same. `?state=found` narrows the list."""

    serializer_class = PairSerializer
    queryset = Pair.objects.none()
    lookup_value_regex = r"\d+"

    def get_queryset(self) -> Any:
        found = Pair.objects.visible_to(_user(self.request)).select_related("one", "other")
        if state := self.request.query_params.get("state"):
            found = found.filter(state=state)
        return found.order_by("distance", "pk")

    @action(detail=True, methods=["post"])
    def settle(self, request: Request, pk: str) -> Response:
        """`{"same": false}`: the two are not the same image; `{"same": true}` takes that back."""
        pair = self.get_object()
        user = _user(request)
        for series in (pair.one, pair.other):
            _curator(user, series.study.project)
        settle = duplicates.restore if _sent(request).get("same", False) else duplicates.dismiss
        return Response(PairSerializer(settle(pair, by=user)).data)
