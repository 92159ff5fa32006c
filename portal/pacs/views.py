"""Other imaging systems: the list of nodes, searching one, retrieving from it and sending to it.

Whoever may import into a node's project searches it, brings studies and sends them; administrators write nodes down.
What names a patient travels in bodies of POSTs only.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.jobs.models import Job
from portal.accounts.audit import trail
from portal.accounts.current import current_project
from portal.accounts.models import User
from portal.accounts.permissions import Action, may, projects_where
from portal.pacs import tasks, transfers
from portal.pacs.forms import NodeForm, QueryForm, SendForm
from studies.dimse import nodes as service
from studies.dimse import remote
from studies.dimse.errors import NodeError, RemoteError
from studies.dimse.models import RemoteNode
from studies.models import Study

MODALITIES = ("CT", "MR", "PT", "CR", "DX", "MG", "US", "NM", "XA", "RF", "OT")
RECENT = 8


def usable(user: User) -> QuerySet[RemoteNode]:
    """Nodes of projects into which the user may import."""
    nodes = RemoteNode.objects.visible_to(user).filter(project__in=projects_where(user, Action.IMPORT))
    return nodes.select_related("project").order_by("project__name", "name")


@require_safe
def pacs(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    if not projects_where(user, Action.IMPORT).exists():
        raise PermissionDenied("Your role shows no other systems. Ask a project's manager for the role of engineer.")
    found = usable(user)
    jobs = Job.objects.visible_to(user).filter(
        task__in=[tasks.retrieve.name, tasks.send.name], project__in=projects_where(user, Action.IMPORT)
    )
    if project := current_project(request):
        found, jobs = found.filter(project=project), jobs.filter(project=project)
    return render(
        request,
        "pacs/nodes.html",
        {
            "nodes": list(found),
            "jobs": list(jobs.select_related("created_by", "project").order_by("-pk")[:RECENT]),
            "project": project,
            "listener": settings.DIMSE_PORT or settings.DIMSE_TLS_PORT,
            "title": settings.DIMSE_AE_TITLE,
            "host": settings.DIMSE_HOST,
        },
    )


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def query(request: HttpRequest, pk: int) -> HttpResponse:
    """The search form of a node. POST searches and changes nothing; what is looked for names a patient."""
    node = _node(request, pk)
    form = QueryForm(_posted(request))
    context: dict[str, Any] = {"node": node, "form": form, "modalities": MODALITIES}
    status = 200
    if request.method == "POST":
        if not node.active:
            context["failure"] = RemoteError(f"{node} is switched off.", "An administrator can switch it on.")
        elif form.is_valid():
            trail.record("node.search", node)
            try:
                found, complete = remote.find(node, form.wanted(), watched=True)
                found.sort(key=lambda one: (one.study_date, one.patient_name), reverse=True)
                held = _held(node, [one.study_instance_uid for one in found])
                context |= {"rows": [(one, held.get(one.study_instance_uid)) for one in found], "complete": complete}
            except RemoteError as error:
                context["failure"] = error
        else:
            status = 422
    return render(request, "pacs/query.html", context, status=status)


def _held(node: RemoteNode, uids: list[str]) -> dict[str, Study]:
    """Which of the studies lie in the node's project already."""
    studies = Study.objects.filter(project=node.project, study_instance_uid__in=uids)
    return {study.study_instance_uid: study for study in studies}


@require_POST
def retrieve(request: HttpRequest, pk: int) -> HttpResponse:
    """`study`: StudyInstanceUIDs."""
    node = _node(request, pk)
    try:
        job = transfers.start_retrieval(node, request.POST.getlist("study"), by=request.user)  # type: ignore[arg-type]
    except RemoteError as error:
        messages.error(request, str(error))
        return redirect("node_query", pk=pk)
    return redirect("job", pk=job.pk)


@require_POST
def echo(request: HttpRequest, pk: int) -> HttpResponse:
    """C-ECHO (or a small QIDO-RS request); htmx gets the words alone."""
    node = _node(request, pk)
    try:
        seconds = remote.echo(node)
    except RemoteError as error:
        answer = {"status": "bad", "words": error.cause, "next_step": error.next_step}
    else:
        answer = {"status": "ok", "words": f"Answered after {1000 * seconds:.0f} ms", "next_step": ""}
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "pacs/echo.html", answer)
    tell = messages.success if answer["status"] == "ok" else messages.error
    tell(request, f"{node}: {answer['words']} {answer['next_step']}".strip())
    return redirect("pacs")


@require_http_methods(["GET", "HEAD", "POST"])
def send(request: HttpRequest) -> HttpResponse:
    """GET takes any number of `?study=`, POST the same with node and what."""
    user: Any = request.user
    if not projects_where(user, Action.IMPORT).exists():
        raise PermissionDenied("Your role does not allow sending studies.")
    given = (request.POST if request.method == "POST" else request.GET).getlist("study")
    keys = [int(word) for entry in given for word in entry.split(",") if word.isdecimal() and len(word) < 10]
    mine = Study.objects.visible_to(user).filter(project__in=projects_where(user, Action.IMPORT))
    studies = list(mine.filter(pk__in=keys[: transfers.MOST + 1]).select_related("patient", "project").order_by("pk"))
    projects = {study.project_id for study in studies}
    choosable = (
        usable(user).filter(active=True, project__in=projects) if len(projects) == 1 else RemoteNode.objects.none()
    )
    form = SendForm(_posted(request), nodes=choosable)
    context = {
        "form": form,
        "studies": studies,
        "several": len(projects) > 1,
        "nodes": choosable.exists(),
        "project": studies[0].project if len(projects) == 1 else None,
    }
    if request.method == "POST" and form.is_valid():
        try:
            job = transfers.start_sending(form.cleaned_data["node"], studies, form.cleaned_data["what"], by=user)
        except RemoteError as error:
            form.add_error(None, str(error))
        else:
            return redirect("job", pk=job.pk)
    return render(request, "pacs/send.html", context, status=422 if request.method == "POST" else 200)


@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def node_create(request: HttpRequest) -> HttpResponse:
    _administrator(request)
    current = current_project(request)
    form = NodeForm(_posted(request), initial={"project": current, "active": True, "kind": "dimse"})
    if request.method == "POST" and form.is_valid():
        try:
            node = service.create(form.cleaned_data["project"], request.user, **form.values())  # type: ignore[arg-type]
        except NodeError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{node} is written down. Test it now.")
            return redirect("pacs")
    return render(request, "pacs/node.html", {"form": form}, status=422 if form.errors else 200)


@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def node_edit(request: HttpRequest, pk: int) -> HttpResponse:
    node = _node(request, pk)
    _administrator(request)
    form = NodeForm(_posted(request), node=node)
    if request.method == "POST" and form.is_valid():
        try:
            service.change(node, **form.values())
        except NodeError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{node} is changed.")
            return redirect("pacs")
    return render(request, "pacs/node.html", {"form": form, "node": node}, status=422 if form.errors else 200)


@require_POST
def node_remove(request: HttpRequest, pk: int) -> HttpResponse:
    node = _node(request, pk)
    _administrator(request)
    service.remove(node)
    messages.success(request, f"{node} is removed. What it sent stays.")
    return redirect("pacs")


def _posted(request: HttpRequest) -> Any:
    return request.POST if request.method == "POST" else None


def _node(request: HttpRequest, pk: int) -> RemoteNode:
    user: Any = request.user
    node = get_object_or_404(RemoteNode.objects.visible_to(user).select_related("project"), pk=pk)
    if not may(user, Action.IMPORT, node.project):
        raise PermissionDenied("Your role in this project does not allow this with other systems.")
    return node


def _administrator(request: HttpRequest) -> None:
    if not request.user.is_superuser:
        raise PermissionDenied("Administrators write down other systems.")
