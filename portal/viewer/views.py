"""OHIF under /viewer/: its page, its files, its configuration, and the way there from a study."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_safe

from portal.accounts.models import Project
from portal.viewer import config, results, serving
from studies.models import Study

ROUTE = "readroom"  # of our mode


@require_safe
def open_study(request: HttpRequest, pk: int) -> HttpResponse:
    study = get_object_or_404(Study.objects.visible_to(request.user).select_related("project"), pk=pk)
    base = config.Scope.of_project(study.project.slug).base
    query = {"StudyInstanceUIDs": study.study_instance_uid}
    if series := request.GET.get("series"):
        query["initialSeriesInstanceUID"] = series
    if shown := request.GET.get("map"):
        query["map"] = shown  # our extension lays it over its image at opening
    return HttpResponseRedirect(f"{base}{ROUTE}?{urlencode(query)}")


@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """OHIF's own list of studies is not used: ours knows projects, results and cohorts."""
    return redirect("studies")


def _scope(request: HttpRequest, slug: str | None, task: int | None) -> config.Scope:
    if slug is not None:
        get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
        return config.Scope.of_project(slug)
    # Whose task it is, is the task's own DICOMweb root to say; the page around it holds nothing.
    return config.EVERYTHING if task is None else config.Scope.of_task(task)


@require_safe
def page(request: HttpRequest, slug: str | None = None, task: int | None = None, rest: str = "") -> HttpResponse:
    """OHIF's page for every path without a file behind it; its router does the rest."""
    scope = _scope(request, slug, task)
    index = serving.index()
    if index is None:
        return render(request, "viewer/not_installed.html", status=503)
    get_token(request)  # the extension sends it back when it stores an object
    response = HttpResponse(config.page(scope, index))
    response["Cache-Control"] = "no-store"
    return response


@require_safe
def app_config(request: HttpRequest, slug: str | None = None, task: int | None = None) -> HttpResponse:
    response = HttpResponse(config.script(_scope(request, slug, task)), content_type="text/javascript")
    response["Cache-Control"] = "no-store"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


@require_safe
def study_results(request: HttpRequest, study_instance_uid: str, slug: str | None = None) -> JsonResponse:
    """Who or what made each derived series of a study, for the legend."""
    studies = Study.objects.visible_to(request.user).filter(study_instance_uid=study_instance_uid)
    if slug is not None:
        studies = studies.filter(project__slug=slug)
    study = studies.order_by("pk").first()
    if study is None:
        raise Http404("no such study")
    response = JsonResponse({"results": results.of_study(study, request.user)})
    response["Cache-Control"] = "no-store"
    return response


@require_safe
def asset(request: HttpRequest, name: str) -> HttpResponse:
    return serving.asset(request, name)


@require_safe
def module(request: HttpRequest, digest: str, name: str) -> HttpResponse:
    return serving.module(request, name, digest)
