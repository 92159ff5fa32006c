"""The quarantine: every file that was refused, why, and what can be done about it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, QuerySet
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from studies.ingest import quarantine as service
from studies.models import Refusal

PAGE = 50
RETRY_SECONDS = 20.0

WORDS = {
    "bad_pixel_data": "Pixel data that cannot be read",
    "bad_zip": "Damaged archive",
    "conflict": "Other bytes under a stored UID",
    "dicomdir": "Index of other files",
    "empty": "Empty file",
    "encrypted": "Encrypted archive",
    "interrupted": "Interrupted import",
    "malformed": "Structure contradicts itself",
    "nested_archive": "Archive inside an archive",
    "no_identity": "Without an identifier",
    "no_pixel_data": "Image without pixels",
    "not_dicom": "Not a DICOM file",
    "patient_mismatch": "Study of another patient",
    "series_mismatch": "Series of another kind or author",
    "too_complex": "Too many elements",
    "too_deep": "Nested too deeply",
    "too_large": "Too large",
    "truncated": "Cut off",
    "unreadable": "Cannot be read",
    "unsafe_path": "Path that leads elsewhere",
    "zip_bomb": "Unpacks out of proportion",
}


def words_of(code: str) -> str:
    return WORDS.get(code, code.replace("_", " ").capitalize())


@require_safe
def quarantine(request: HttpRequest) -> HttpResponse:
    """`?project=<slug>`, `?code=`, `?state=` (open where absent, all) and `?page=`."""
    projects = _projects(request, Action.IMPORT)
    chosen, found = _chosen(request, request.GET, projects)
    state, code = request.GET.get("state", "open"), request.GET.get("code", "")
    if state in Refusal.State.values:
        found = found.filter(state=state)
    codes = [
        (value, words_of(value), count)
        for value, count in found.order_by("code").values_list("code").annotate(count=Count("pk"))
    ]
    if code:
        found = found.filter(code=code)
    page = Paginator(
        found.select_related("batch__project", "batch__created_by", "settled_by").order_by("-pk"), PAGE
    ).get_page(request.GET.get("page"))
    for row in page:
        row.words = words_of(row.code)
    query = request.GET.copy()
    query.pop("page", None)
    manages = set(projects_where(request.user, Action.MANAGE).values_list("pk", flat=True))
    return render(
        request,
        "worklist/quarantine.html",
        {
            "projects": projects,
            "chosen": chosen,
            "codes": codes,
            "code": code,
            "state": state,
            "states": [*Refusal.State.choices, ("all", "All")],
            "page": page,
            "query": query.urlencode(),
            "retryable": found.open().exclude(file="").count(),
            "manages": manages,
            "may_discard": any(project.pk in manages for project in projects)
            and (chosen is None or chosen.pk in manages),
        },
    )


@require_POST
def quarantine_all(request: HttpRequest) -> HttpResponse:
    """`action` retry or discard, for all open files of `project` and `code` (each optional)."""
    discards = request.POST.get("action") == "discard"
    projects = _projects(request, Action.MANAGE if discards else Action.IMPORT)
    _, found = _chosen(request, request.POST, projects)
    if code := request.POST.get("code", ""):
        found = found.filter(code=code)
    if discards:
        count = service.discard_all(found, by=request.user)
        messages.success(request, f"{count} file{'' if count == 1 else 's'} discarded.")
    else:
        counts = service.retry_all(found, by=request.user, seconds=RETRY_SECONDS)
        text = (
            f"{counts['stored']} stored, {counts['duplicate']} were there already, {counts['refused']} refused again."
        )
        if counts["left"]:
            text += f" {counts['left']} are left: retry once more."
        messages.info(request, text)
    return redirect("quarantine")


@require_safe
def refusal(request: HttpRequest, pk: int) -> HttpResponse:
    """One refused file; for a conflict, what differs from the stored object. Managers see identifying values."""
    found = _visible(request, pk, Action.IMPORT)
    manages = may(request.user, Action.MANAGE, found.batch.project)
    about: dict[str, Any] = {"refusal": found, "words": words_of(found.code), "manages": manages}
    if found.code == service.CONFLICT:
        about["held"] = service.held_instance(found)
        try:
            about["differences"], about["complete"] = service.compare(found)
        except service.QuarantineError as error:
            about["failure"] = error
    about["kept"] = bool(found.file) and found.state in (Refusal.State.OPEN, Refusal.State.KEPT)
    return render(request, "worklist/refusal.html", about)


@require_POST
def refusal_retry(request: HttpRequest, pk: int) -> HttpResponse:
    found = _visible(request, pk, Action.IMPORT)
    try:
        outcome = service.retry(found, by=request.user)
    except service.QuarantineError as error:
        messages.error(request, str(error))
        return redirect("refusal", pk=pk)
    if outcome.refused:
        messages.warning(request, f"Refused again: {outcome.reason}")
        return redirect("refusal", pk=pk)
    words = "It is stored now." if outcome.state == "stored" else "The same file was stored already."
    messages.success(request, words)
    return redirect("study", pk=outcome.instance.series.study_id) if outcome.instance else redirect("quarantine")


@require_POST
def refusal_keep(request: HttpRequest, pk: int) -> HttpResponse:
    found = _visible(request, pk, Action.MANAGE)
    return _decided(request, found, service.keep_stored, "The stored object counts; this file is settled.")


@require_POST
def refusal_discard(request: HttpRequest, pk: int) -> HttpResponse:
    found = _visible(request, pk, Action.MANAGE)
    return _decided(request, found, service.discard, "The file was discarded.")


@require_safe
def refusal_file(request: HttpRequest, pk: int) -> HttpResponseBase:
    """The kept bytes, under a name that tells nothing of the patient."""
    found = _visible(request, pk, Action.MANAGE)
    try:
        path = service.path_of(found)
    except service.QuarantineError as error:
        messages.error(request, str(error))
        return redirect("refusal", pk=pk)
    name = f"refused-{found.pk}.bin"
    return FileResponse(path.open("rb"), as_attachment=True, filename=name, content_type="application/octet-stream")


def _decided(request: HttpRequest, found: Refusal, step: Any, words: str) -> HttpResponse:
    try:
        step(found, by=request.user)
    except service.QuarantineError as error:
        messages.error(request, str(error))
        return redirect("refusal", pk=found.pk)
    messages.success(request, words)
    return redirect(f"{reverse('quarantine')}?project={found.batch.project.slug}")


def _projects(request: HttpRequest, action: Action) -> list[Any]:
    projects = list(projects_where(request.user, action).order_by("name"))
    if not projects:
        raise PermissionDenied("Your role shows no refused files. Ask a project's manager for the role of engineer.")
    return projects


def _chosen(request: HttpRequest, query: Any, projects: list[Any]) -> tuple[Any, QuerySet[Refusal]]:
    current = current_project(request)
    wanted = query.get("project", current.slug if current else "")
    chosen = next((project for project in projects if project.slug == wanted), None)
    return chosen, Refusal.objects.visible_to(request.user).filter(batch__project__in=[chosen] if chosen else projects)


def _visible(request: HttpRequest, pk: int, action: Action) -> Refusal:
    rows = Refusal.objects.visible_to(request.user).select_related(
        "batch__project", "batch__created_by", "settled_by", "created_by"
    )
    found = get_object_or_404(rows, pk=pk)
    if not may(request.user, action, found.batch.project):
        raise PermissionDenied("Your role in this project does not allow this with refused files.")
    return found
