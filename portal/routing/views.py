"""Routing rules: their list in its order, what each did, changing them, and sending a result again.

Members of a project look; managers and engineers (the right to run) change.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.jobs.models import Job
from inference.routing import pushes, services
from inference.routing import rules as service
from inference.routing.conditions import RuleError
from inference.routing.models import RoutedStudy, RoutingRule
from portal.accounts.current import current_project
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from portal.routing.forms import RuleForm

PAGE = 25
RECENT = timedelta(days=7)
SHOWN_WAITING = 5


@require_safe
def rules(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    project = current_project(request)
    found = visible(user).order_by("project__name", "position", "pk")
    if project is not None:
        found = found.filter(project=project)
    week = Q(routed__created_at__gte=timezone.now() - RECENT)
    rows = list(
        found.annotate(
            runs=Count("routed", filter=week & Q(routed__outcome="run")),
            failed=Count("routed", filter=week & Q(routed__job__state=Job.State.FAILED)),
            unsent=Count("routed", filter=Q(routed__push="failed")),
        )
    )
    changeable = set(projects_where(user, Action.RUN).values_list("pk", flat=True))
    for row in rows:
        row.words = list(row.parsed().words())  # type: ignore[attr-defined]
        row.changeable = row.project_id in changeable  # type: ignore[attr-defined]
    for before, row in zip([None, *rows], rows, strict=False):
        row.first = before is None or before.project_id != row.project_id  # type: ignore[attr-defined]
        if before is not None:
            before.last = row.first  # type: ignore[attr-defined]
    if rows:
        rows[-1].last = True  # type: ignore[attr-defined]
    context = {"rules": rows, "project": project, "may_change": bool(changeable)}
    return render(request, "routing/rules.html", context)


@require_safe
def rule(request: HttpRequest, pk: int) -> HttpResponse:
    """`?page=` of the log."""
    found = _rule(request, pk)
    user: Any = request.user
    log = (
        RoutedStudy.objects.visible_to(user)
        .filter(rule=found)
        .select_related("study__patient", "image", "version__model", "job", "by", "node", "push_job")
        .order_by("-pk")
    )
    held = services.pending(found.project, held=True) if found.enabled else []
    version = found.present_version()
    context = {
        "rule": found,
        "words": list(found.parsed().words()),
        "version": version,
        "log": Paginator(log, PAGE).get_page(request.GET.get("page")),
        "held": list(held[:SHOWN_WAITING]),
        "may_change": may(user, Action.RUN, found.project),
        "may_send": may(user, Action.IMPORT, found.project),
    }
    return render(request, "routing/rule.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def rule_create(request: HttpRequest) -> HttpResponse:
    """`project`: the slug of the rule's project; the one in hand where it is not given."""
    project, projects = project_asked_for(request)
    form = RuleForm(request.POST if request.method == "POST" else None, project=project)
    if request.method == "POST" and form.is_valid():
        try:
            made = service.create(project, by=request.user, **form.values())  # type: ignore[arg-type]
        except RuleError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{made} is written down and switched off. Try it out, then switch it on.")
            return redirect("rule", pk=made.pk)
    context = {"form": form, "project": project, "projects": projects}
    return render(request, "routing/edit.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
def rule_edit(request: HttpRequest, pk: int) -> HttpResponse:
    found = _changeable(request, pk)
    form = RuleForm(request.POST if request.method == "POST" else None, project=found.project, rule=found)
    if request.method == "POST" and form.is_valid():
        try:
            service.change(found, by=request.user, **form.values())  # type: ignore[arg-type]
        except RuleError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{found} is changed. What was routed already stays as it is.")
            return redirect("rule", pk=pk)
    context = {"form": form, "rule": found, "project": found.project}
    return render(request, "routing/edit.html", context, status=422 if form.errors else 200)


@require_POST
def rule_switch(request: HttpRequest, pk: int) -> HttpResponse:
    """`on`: 1 or nothing."""
    found = _changeable(request, pk)
    try:
        changed = service.switch(found, request.POST.get("on") == "1", by=request.user)  # type: ignore[arg-type]
    except RuleError as error:
        messages.error(request, str(error))
    else:
        messages.success(
            request, f"{changed} is {'on: it runs on what comes in from now on' if changed.enabled else 'off'}."
        )
    return redirect("rule", pk=pk)


@require_POST
def rule_move(request: HttpRequest, pk: int) -> HttpResponse:
    """`to`: up or down."""
    service.move(_changeable(request, pk), request.POST.get("to") != "down", by=request.user)  # type: ignore[arg-type]
    return redirect("rules")


@require_POST
def rule_delete(request: HttpRequest, pk: int) -> HttpResponse:
    found = _changeable(request, pk)
    service.remove(found, by=request.user)  # type: ignore[arg-type]
    messages.success(request, f"{found} is deleted. Results stay.")
    return redirect("rules")


@require_POST
def routed_resend(request: HttpRequest, pk: int) -> HttpResponse:
    """Send the result again to the node of its rule; `next`: study, prediction, or the rule's page."""
    user: Any = request.user
    row = get_object_or_404(RoutedStudy.objects.visible_to(user).select_related("study__project", "node"), pk=pk)
    if not may(user, Action.IMPORT, row.study.project):
        raise PermissionDenied("Your role in this project does not allow sending.")
    try:
        pushes.resend(row, by=user)
    except RuleError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "The result is sent again within a minute.")
    if request.POST.get("next") == "prediction" and row.prediction_id is not None:
        return redirect("prediction", pk=row.prediction_id)
    if request.POST.get("next") == "study" or row.rule_id is None:
        return redirect("study", pk=row.study_id)
    return redirect("rule", pk=row.rule_id)


def visible(user: User) -> QuerySet[RoutingRule]:
    return RoutingRule.objects.visible_to(user).select_related(
        "project", "model", "version__model__project", "node", "created_by"
    )


def project_asked_for(request: HttpRequest) -> tuple[Project, list[Project]]:
    """The project of a rule to be made, and all in which the user may make one."""
    user: Any = request.user
    projects = list(projects_where(user, Action.RUN).order_by("name"))
    slug = (request.POST if request.method == "POST" else request.GET).get("project", "")
    if slug:
        chosen = get_object_or_404(Project.objects.visible_to(user), slug=slug)
    elif projects:
        current = current_project(request)
        chosen = current if current is not None and current in projects else projects[0]
    if not projects or chosen not in projects:
        raise PermissionDenied("Managers and engineers of a project make its rules.")
    return chosen, projects


def _rule(request: HttpRequest, pk: int) -> RoutingRule:
    return get_object_or_404(visible(request.user), pk=pk)  # type: ignore[arg-type]


def _changeable(request: HttpRequest, pk: int) -> RoutingRule:
    found = _rule(request, pk)
    if not may(request.user, Action.RUN, found.project):  # type: ignore[arg-type]
        raise PermissionDenied("Managers and engineers of the project change its rules.")
    return found
