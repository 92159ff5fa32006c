"""What the REST views of models, training, predictions and evaluations share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from django.http import Http404
from rest_framework import serializers
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request

from inference.errors import ConfigError, InferenceError
from inference.registry.models import ModelVersion
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from studies.cohorts.models import Cohort, ReferenceStandard


class Refused(APIException):
    """400 with `cause` and `next_step`, and `problems` where a configuration is wrong."""

    status_code = 400
    default_code = "refused"

    def __init__(self, error: InferenceError) -> None:
        detail: dict[str, Any] = {"cause": error.cause, "next_step": error.next_step}
        if isinstance(error, ConfigError):
            detail["problems"] = error.problems
        super().__init__(detail)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the domain's errors into answers."""
    try:
        yield
    except InferenceError as error:
        raise Refused(error) from None


def user_of(request: Request) -> User:
    """The user behind an authenticated request."""
    return cast(User, request.user)


def need(request: Request, action: Action, project: Project) -> None:
    """Raise 403 unless the role in a project that the user sees allows `action`."""
    if not may(user_of(request), action, project):
        raise PermissionDenied("Your role in this project does not allow this. Ask a manager of the project.")


def find_project(request: Request, slug: str) -> Project:
    return _or_404(Project.objects.visible_to(user_of(request)).filter(slug=slug).first())


def find_version(request: Request, pk: int) -> ModelVersion:
    versions = ModelVersion.objects.visible_to(user_of(request))
    return _or_404(versions.select_related("model__project").filter(pk=pk).first())


def find_cohort(request: Request, pk: int) -> Cohort:
    cohorts = Cohort.objects.visible_to(user_of(request))
    return _or_404(cohorts.select_related("project").filter(pk=pk).first())


def find_reference(request: Request, pk: int | None) -> ReferenceStandard | None:
    if pk is None:
        return None
    return _or_404(ReferenceStandard.objects.visible_to(user_of(request)).filter(pk=pk).first())


def _or_404(found: Any) -> Any:
    if found is None:
        raise Http404
    return found


class SplitField(serializers.ChoiceField):
    """One side of the split, or `all`, which is stored as an empty text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=["test", "validation", "train", "all"], **kwargs)
