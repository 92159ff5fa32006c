"""The page on which a manager deletes a study or moves it to another project."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.models import Project
from portal.accounts.permissions import Action, may
from portal.worklist import leaving
from studies.models import Study
from studies.removal import RemovalError


@require_safe
def study_leave(request: HttpRequest, pk: int) -> HttpResponse:
    """What will be lost, or why it has to stay."""
    study = _managed(request, pk)
    context = {
        "study": study,
        "stakes": leaving.stakes(study),
        "destinations": leaving.destinations(study, request.user),  # type: ignore[arg-type]
    }
    return render(request, "worklist/leave.html", context)


@require_POST
def study_delete(request: HttpRequest, pk: int) -> HttpResponse:
    study = _managed(request, pk)
    try:
        leaving.delete(study, by=request.user)  # type: ignore[arg-type]
    except RemovalError as error:
        messages.error(request, f"The study stays. {error}")
        return redirect("study_leave", pk=pk)
    messages.success(request, "The study was deleted.")
    return redirect("studies")


@require_POST
def study_move(request: HttpRequest, pk: int) -> HttpResponse:
    """`project`: the slug of the other one."""
    study = _managed(request, pk)
    to = get_object_or_404(Project.objects.visible_to(request.user), slug=request.POST.get("project", ""))  # type: ignore[arg-type]
    try:
        leaving.move(study, to, by=request.user)  # type: ignore[arg-type]
    except RemovalError as error:
        messages.error(request, f"The study stays. {error}")
        return redirect("study_leave", pk=pk)
    messages.success(request, f"The study belongs to {to} now.")
    return redirect("study", pk=pk)


def _managed(request: HttpRequest, pk: int) -> Study:
    studies = Study.objects.visible_to(request.user).select_related("patient", "project")  # type: ignore[arg-type]
    study = get_object_or_404(studies, pk=pk)
    if not may(request.user, Action.MANAGE, study.project):  # type: ignore[arg-type]
        raise PermissionDenied("Managers of the project delete and move its studies.")
    return study
