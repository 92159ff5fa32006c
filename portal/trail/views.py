"""The audit trail for administrators (all) and managers (their projects): a page and a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from portal.accounts.audit import trail
from portal.accounts.audit.models import AuditEvent, Outcome
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from portal.accounts.requests import SignedIn
from portal.trail.search import BadSearch, Search, lines
from portal.trail.words import GROUPS, Shown, object_of, words_of
from studies.models import Patient


def require_auditor(user: User) -> None:
    """Administrators, and whoever manages a project."""
    if not user.is_superuser and not projects_where(user, Action.MANAGE).exists():
        raise PermissionDenied("The audit trail is for administrators and for managers of projects.")


@require_http_methods(["GET", "HEAD", "POST"])
def audit(request: SignedIn) -> HttpResponse:
    """The rows that fit. A POST looks for a PatientID, which stays out of addresses, and leads to its key."""
    require_auditor(request.user)
    if request.method == "POST":
        return _of_patient(request)
    problem, search = "", Search()
    try:
        search = Search.of(request.GET)
    except BadSearch as error:
        problem = str(error)
    rows, after = ([], None) if problem else search.page(request.user)
    accounts = [row.object_id for row in rows if row.object_kind == "accounts.user" and row.object_id.isdecimal()]
    names = {str(pk): name for pk, name in User.objects.filter(pk__in=accounts).values_list("pk", "username")}
    patients = Patient.objects.visible_to(request.user)
    context = {
        "search": search,
        "problem": problem,
        "values": request.GET,
        "rows": [_shown(row, names) for row in rows],
        "older": search.address(before=after) if after else "",
        "newest": search.address(before=None) if search.before else "",
        "export": search.address(before=None),
        "groups": GROUPS,
        "outcomes": Outcome.choices,
        "projects": projects_where(request.user, Action.MANAGE).order_by("name"),
        "patient": patients.filter(pk=search.patient).first() if search.patient else None,
        "not_found": request.GET.get("patient") == "0",
    }
    return render(request, "trail/audit.html", context, status=422 if problem else 200)


def _of_patient(request: SignedIn) -> HttpResponse:
    """The newest patient of this PatientID in the projects that the user manages; 0 where there is none."""
    managed = projects_where(request.user, Action.MANAGE)
    wanted = request.POST.get("patient_id", "").strip()[:64]
    found = Patient.objects.filter(project__in=managed, patient_id=wanted)
    project: Project | None = managed.filter(slug=request.POST.get("project", "")).first()
    if project is not None:
        found = found.filter(project=project)
    key = found.order_by("-pk").values_list("pk", flat=True).first() if wanted else None
    asked = {name: request.POST.get(name, "") for name in ("user", "action", "outcome", "project", "since", "until")}
    asked["patient"] = str(key or 0) if wanted else ""
    return redirect(f"{reverse('audit')}?{urlencode({name: value for name, value in asked.items() if value})}")


def _shown(row: AuditEvent, names: dict[str, str]) -> dict[str, Any]:
    shown = object_of(row)
    if row.object_kind == "accounts.user" and row.object_id in names:
        shown = Shown(names[row.object_id])
    return {"row": row, "words": words_of(row.action), "object": shown, "detail": row.detail.items()}


class _Echo:
    def write(self, text: str) -> str:
        return text


@require_safe
def audit_export(request: SignedIn) -> HttpResponseBase:
    """Everything that fits, as CSV. That it was fetched is in the trail as well, before the first line leaves."""
    require_auditor(request.user)
    try:
        search = Search.of(request.GET)
    except BadSearch as error:
        return HttpResponse(str(error), status=400, content_type="text/plain")
    project = Project.objects.visible_to(request.user).filter(slug=search.project).first()
    trail.record(
        "audit.export",
        kind="audit",
        project=project,
        patient=search.patient,
        since=str(search.since or ""),
        until=str(search.until or ""),
    )
    writer = csv.writer(_Echo())

    def body() -> Iterator[str]:
        for line in lines(search.rows(request.user)):
            yield writer.writerow(line)  # type: ignore[misc]  # what `write` returns

    response = StreamingHttpResponse(body(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="audit.csv"'
    return response
