"""Starting a job from a training configuration over REST: what is asked, and the way from the request to the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from inference.rest import find_cohort, find_project, find_reference, need, refusals, user_of
from inference.training.config import Config, check, parse
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action
from studies.cohorts.models import Cohort, ReferenceStandard


class StartSerializer(serializers.Serializer):
    """On what, and with which configuration: one of the fields `one_of`."""

    one_of: tuple[str, ...] = ("config", "toml")

    project: serializers.CharField = serializers.CharField(help_text="Slug")
    cohort = serializers.IntegerField()
    reference = serializers.IntegerField(required=False, allow_null=True, help_text="The newest where left out")
    config = serializers.JSONField(required=False, help_text="The configuration as an object …")
    toml = serializers.CharField(required=False, help_text="… or as TOML text", trim_whitespace=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(set(self.one_of) & set(attrs)) != 1:
            raise serializers.ValidationError(f"Give either {' or '.join(self.one_of)}.")
        return attrs


@dataclass(frozen=True)
class Asked:
    """values: as the serializer checked them; everything else is found, visible and may be run on."""

    values: dict[str, Any]
    project: Project
    cohort: Cohort
    reference: ReferenceStandard | None
    by: User

    def config(self) -> Config:
        """Raises `ConfigError`."""
        return parse(self.values["toml"]) if "toml" in self.values else check(self.values["config"])

    def where(self) -> dict[str, Any]:
        """What every service that starts such a job takes."""
        return {"project": self.project, "cohort": self.cohort, "reference": self.reference, "by": self.by}


def started(
    request: Request,
    form: type[StartSerializer],
    answer: type[serializers.BaseSerializer],
    start: Callable[[Asked], Any],
) -> Response:
    """201 with what `start` made, as `answer` tells it; the domain's errors become 400 with cause and next step."""
    asked = form(data=request.data)
    asked.is_valid(raise_exception=True)
    values = asked.validated_data
    found = Asked(
        values,
        find_project(request, values["project"]),
        find_cohort(request, values["cohort"]),
        find_reference(request, values.get("reference")),
        user_of(request),
    )
    need(request, Action.RUN, found.project)
    with refusals():
        made = start(found)
    return Response(answer(made).data, status=201)


class StartedViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet):
    """What was started so, newest first. `?project=` narrows the list. `related`: what its rows need beside them."""

    related: tuple[str, ...] = ("project", "job")
    lookup_value_regex = r"\d+"

    def get_queryset(self) -> QuerySet[Any]:
        model: Any = self.serializer_class.Meta.model  # type: ignore[union-attr]
        found: QuerySet[Any] = model.objects.visible_to(user_of(self.request)).select_related(*self.related)
        if slug := self.request.query_params.get("project"):
            found = found.filter(project__slug=slug)
        return found.order_by("-pk")
