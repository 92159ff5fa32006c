"""The upload page, and the outcome of an import."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_safe

from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from studies.models import ImportBatch, Refusal


@require_safe
def upload(request: HttpRequest) -> HttpResponse:
    """Drag and drop; the script sends the files to the import API. `?project=<slug>` chooses the project."""
    projects = list(projects_where(request.user, Action.IMPORT).order_by("name"))
    if not projects and request.user.is_superuser:
        messages.info(request, "Images are imported into a project. Make the first one here.")
        return redirect("projects")
    if not projects:
        raise PermissionDenied("You may not import into any project. Ask a project's manager for the role of engineer.")
    current = current_project(request)
    wanted = request.GET.get("project") or (current.slug if current else "")
    chosen = next((project for project in projects if project.slug == wanted), projects[0])
    recent = (
        ImportBatch.objects.visible_to(request.user)
        .from_outside()
        .filter(project__in=projects)
        .select_related("project", "created_by")
        .order_by("-created_at")[:6]
    )
    refused = Refusal.objects.visible_to(request.user).filter(batch__project__in=projects).open().count()
    about = {"projects": projects, "chosen": chosen, "recent": recent, "refused": refused}
    return render(request, "worklist/upload.html", about)


@require_safe
def import_batch(request: HttpRequest, pk: int) -> HttpResponse:
    batches = ImportBatch.objects.visible_to(request.user).select_related("project", "created_by")
    batch = get_object_or_404(batches, pk=pk)
    if not may(request.user, Action.IMPORT, batch.project):
        raise PermissionDenied("Your role in this project does not show its imports.")
    refusals = batch.refusals.order_by("pk")
    codes = sorted({refusal.code for refusal in refusals})
    return render(request, "worklist/import_batch.html", {"batch": batch, "refusals": refusals[:2000], "codes": codes})
