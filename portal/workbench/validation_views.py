"""A cross-validation: its page while it runs and after, and what it found as JSON and CSV."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from inference.errors import InferenceError
from inference.training import crossvalidation
from inference.training.models import CrossValidation
from portal.accounts.permissions import Action, may
from portal.frame import spreadsheets
from portal.workbench import outlines, rounds
from portal.workbench.job_views import left_words


@require_safe
def cross_validation(request: HttpRequest, pk: int) -> HttpResponse:
    """Asks again every few seconds while it runs, and is drawn anew when it has ended."""
    validation = _visible(request, pk)
    job = validation.job
    going = job is not None and not job.ended
    context: dict[str, Any] = {
        "validation": validation,
        "job": job,
        "cohort": validation.reference.cohort,
        "going": going,
        "left_words": left_words(job) if job else "",
        "outlines": _segments(validation),
        "rounds": _page(validation).shown(validation, request.user) if validation.finished_at else {},
        "progress": [] if validation.finished_at else _progress(validation),
        "may_run": may(request.user, Action.RUN, validation.project),
    }
    response = render(request, "workbench/cross_validation.html", context)
    if request.htmx and not going:
        response["HX-Refresh"] = "true"
    return response


def _segments(validation: CrossValidation) -> bool:
    return validation.config["task"] == "segmentation"


def _page(validation: CrossValidation) -> ModuleType:
    """What shows its results."""
    return outlines if _segments(validation) else rounds


def _progress(validation: CrossValidation) -> list[dict[str, Any]]:
    try:
        return rounds.progress(validation)
    except InferenceError:  # the job tells it
        return []


@require_safe
def cross_validation_export(request: HttpRequest, pk: int, extension: str) -> HttpResponse:
    """`json`: figures with intervals and tests, configuration, environment; `csv`: every case that the user may see."""
    validation = _visible(request, pk)
    if not validation.finished_at:
        raise Http404
    name = f"cross-validation-{validation.pk}"
    if extension == "csv":
        found = _page(validation).held_out(validation, request.user)
        if _segments(validation):
            return spreadsheets.answer(outlines.csv_rows(found), name)
        return spreadsheets.answer(rounds.csv_rows(validation.summary["classes"], found), name)
    if extension != "json":
        raise Http404
    told = {
        **crossvalidation.report(validation),
        "cohort_digest": validation.cohort_digest,
        "environment": validation.environment,
        "config": validation.config,
        "finished_at": validation.finished_at,
    }
    response = JsonResponse(told, json_dumps_params={"indent": 1, "ensure_ascii": False})
    response["Content-Disposition"] = f'attachment; filename="{name}.json"'
    return response


def _visible(request: HttpRequest, pk: int) -> CrossValidation:
    mine = CrossValidation.objects.visible_to(request.user).select_related(
        "project", "job", "reference__cohort", "created_by"
    )
    return get_object_or_404(mine, pk=pk)
