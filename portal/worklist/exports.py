"""De-identified exports: ordering, signing off pixels, report and file, and the way back for administrators."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from pydicom.datadict import tag_for_keyword

from inference.jobs.models import Job
from inference.jobs.services import submit
from portal.accounts.audit.models import AuditEvent
from portal.accounts.current import current_project
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from portal.worklist.export_forms import MAX_STUDIES, WORDS, ExportForm
from portal.worklist.tasks import export_deidentified
from studies.deid import keys, pixels, services
from studies.deid.burned_in import Box
from studies.deid.errors import DeidError
from studies.deid.models import Export, PixelReview
from studies.deid.options import Option
from studies.dicom.rendering import encode
from studies.models import Study

PAGE_SIZE = 40
MAX_DRAWN = 200


@require_http_methods(["GET", "HEAD", "POST"])
def exports(request: HttpRequest) -> HttpResponse:
    """Order an export of a cohort or of `?study=1&study=2`, and the exports so far; `?project=<slug>` chooses.
    `?like=<pk>` fills the form as an earlier export was ordered, and asks to remove what stopped it."""
    like = _like(request)
    studies = list(like.studies.order_by("pk")) if like and like.cohort_id is None else _studies(request)
    project = like.project if like else _project(request, studies)
    several = any(study.project_id != project.pk for study in studies)
    submitted = request.method == "POST" and "order" in request.POST
    initial = _as_ordered(like) if like else None
    form = ExportForm(request.POST if submitted else None, initial=initial, project=project, studies=studies)
    if submitted and not several and form.is_valid():
        try:
            export = services.order(
                project=project,
                profile=form.profile,
                by=_user(request),
                cohort=None if studies else form.cleaned_data["cohort"],
                studies=studies,
                nifti=form.cleaned_data["nifti"],
                results=form.cleaned_data["results"],
            )
        except DeidError as error:
            form.add_error(None, str(error))
        else:
            start(export, _user(request))
            return redirect("export", pk=export.pk)
    found = Export.objects.filter(project=project).select_related("cohort", "created_by").annotate(n=Count("studies"))
    context = {
        "form": form,
        "project": project,
        "projects": projects_where(_user(request), Action.MANAGE).order_by("name"),
        "page": Paginator(found.order_by("-pk"), PAGE_SIZE).get_page(request.GET.get("page")),
        "studies": studies,
        "several": several,
        "lookups": _lookups(project) if _user(request).is_superuser else [],
    }
    return render(request, "worklist/exports.html", context, status=422 if form.errors else 200)


@require_safe
def export(request: HttpRequest, pk: int) -> HttpResponse:
    """An export; asked by htmx, its progress only."""
    export = _managed(request, pk)
    job = _job(export)
    if request.headers.get("HX-Request"):
        response = render(request, "worklist/export_progress.html", {"export": export, "job": job})
        if export.state != Export.State.QUEUED or (job is not None and job.ended):
            response["HX-Refresh"] = "true"
        return response
    reviews = list(
        services.reviews_of(export).select_related("series__study", "by").order_by("decision", "series__study", "pk")
    )
    context = {
        "export": export,
        "job": job,
        "stopped": export.state == Export.State.QUEUED and (job is None or job.ended),
        "reviews": reviews,
        "waiting": sum(not review.decision for review in reviews),
        "studies": export.studies.count(),
        "options": [WORDS[Option(word)][0] for word in export.profile.split(",")[1:]],
        "may_sign": export.state != Export.State.QUEUED,
    }
    return render(request, "worklist/export.html", context)


@require_POST
def export_restart(request: HttpRequest, pk: int) -> HttpResponse:
    """Once more, as after a failure."""
    export = _managed(request, pk)
    job = _job(export)
    if export.is_restartable or (export.state == Export.State.QUEUED and (job is None or job.ended)):
        start(export, _user(request))
    else:
        messages.error(request, "This export cannot be started again: it is in the making, or it is done.")
    return redirect("export", pk=pk)


@require_POST
def export_discard(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        services.discard(_managed(request, pk), by=_user(request))
        messages.success(request, "The file is deleted; the report stays.")
    except DeidError as error:
        messages.error(request, str(error))
    return redirect("export", pk=pk)


@require_safe
def export_download(request: HttpRequest, pk: int) -> HttpResponse:
    export = _managed(request, pk)
    try:
        file = services.read_zip(export)
    except DeidError as error:
        messages.error(request, str(error))
        return redirect("export", pk=pk)
    return FileResponse(file, as_attachment=True, filename=f"readroom-export-{export.pk}.zip")


@require_safe
def export_picture(request: HttpRequest, pk: int, review: int, number: int) -> HttpResponse:
    """A frame that is shown for the sign-off, or with `?box=1` the surroundings of a place that was found."""
    question = get_object_or_404(services.reviews_of(_managed(request, pk)), pk=review)
    try:
        image = pixels.picture(question, number, number if request.GET.get("box") else None)
    except DeidError as error:
        raise Http404 from error
    response = HttpResponse(encode(image, "image/png"), content_type="image/png")
    response["Cache-Control"] = "private, no-store"
    return response


@require_POST
def export_review(request: HttpRequest, pk: int, review: int) -> HttpResponse:
    """A manager's decision about one series; after the last one the export goes on by itself."""
    export = _managed(request, pk)
    question = get_object_or_404(services.reviews_of(export), pk=review)
    if export.state == Export.State.QUEUED:
        messages.error(request, "The export is in the making. Wait until it is done, then sign and start it again.")
        return redirect("export", pk=pk)
    try:
        places = _places(request, question)
        pixels.sign(question, decision=request.POST.get("decision", ""), by=_user(request), blanked=places)
    except DeidError as error:
        messages.error(request, str(error))
        return redirect("export", pk=pk)
    if export.state == Export.State.BLOCKED and not services.reviews_of(export).waiting().exists():
        start(export, _user(request))
    return redirect("export", pk=pk)


@require_POST
def reidentify(request: HttpRequest) -> HttpResponse:
    """Who is behind a pseudonym, for administrators; the question is recorded."""
    project = get_object_or_404(Project.objects.visible_to(_user(request)), slug=request.POST.get("project", ""))
    try:
        found = keys.reidentify(project, request.POST.get("pseudonym", ""), by=_user(request))
    except DeidError as error:
        if error.code == "not_allowed":
            raise PermissionDenied(str(error)) from error
        messages.error(request, str(error))
        return redirect("exports")
    return redirect("patient", pk=found.pk)


def start(export: Export, by: User) -> Job:
    """Hand an export to a worker."""
    services.queued(export)
    return submit(
        export_deidentified, project=export.project, title=export.title, parameters={"export": export.pk}, by=by
    )


def _lookups(project: Project) -> list[AuditEvent]:
    """Who went back from a pseudonym lately."""
    asked = AuditEvent.objects.filter(action="pseudonym.reveal", project=project, patient__isnull=False)
    return list(asked.select_related("user")[:10])


def _job(export: Export) -> Job | None:
    jobs = Job.objects.filter(project=export.project_id, task=export_deidentified.name, parameters__export=export.pk)
    return jobs.order_by("-pk").first()


def _places(request: HttpRequest, review: PixelReview) -> list[Box]:
    """The found places that are ticked, and those that were drawn: `top,left,bottom,right` in pixels."""
    places: list[Any] = []
    for value in request.POST.getlist("box")[: len(review.boxes)]:
        if value.isdecimal() and int(value) < len(review.boxes):
            places.append(review.boxes[int(value)]["box"])
    for value in request.POST.getlist("drawn")[:MAX_DRAWN]:
        try:
            drawn = [int(number) for number in json.loads(f"[{value}]")]
        except (ValueError, TypeError) as error:
            raise DeidError("decision", "A drawn place cannot be read.", "Mark it again.") from error
        places.append(drawn if len(drawn) == 4 else [0, 0, 0, 0])
    return [Box(*place) for place in places]


def _user(request: HttpRequest) -> User:
    return request.user  # type: ignore[return-value]


def _studies(request: HttpRequest) -> list[Study]:
    asked = (request.GET.getlist("study") + request.POST.getlist("study"))[:MAX_STUDIES]
    wanted = [int(value) for value in asked if value.isdecimal() and len(value) < 18]
    visible = Study.objects.visible_to(_user(request)).filter(pk__in=wanted)
    return list(visible.select_related("patient", "project").order_by("pk")) if wanted else []


def _project(request: HttpRequest, studies: list[Study]) -> Project:
    possible = projects_where(_user(request), Action.MANAGE).order_by("name")
    slug = request.POST.get("project") or request.GET.get("project")
    current = current_project(request)
    if slug:
        visible = get_object_or_404(Project.objects.visible_to(_user(request)), slug=slug)
        project = possible.filter(pk=visible.pk).first()
    elif studies:
        project = possible.filter(pk=studies[0].project_id).first()
    else:
        project = (possible.filter(pk=current.pk).first() if current else None) or possible.first()
    if project is None:
        raise PermissionDenied("Only managers of a project export its studies.")
    return project


def _like(request: HttpRequest) -> Export | None:
    asked = request.GET.get("like", "")
    return _managed(request, int(asked)) if request.method != "POST" and asked.isdecimal() and len(asked) < 18 else None


def _as_ordered(export: Export) -> dict[str, Any]:
    """The form of an earlier export, with the attributes removed in which original values were found."""
    stopped = {hit["attribute"] for hit in export.report.get("hits", [])}
    keywords = {word for word in stopped if tag_for_keyword(word)}
    return {
        "cohort": export.cohort_id,
        "options": export.profile.split(",")[1:],
        "nifti": export.nifti,
        "results": export.results,
        "remove": ", ".join(sorted({*export.remove, *keywords})),
        "keep_private": "\n".join(export.keep_private),
    }


def _managed(request: HttpRequest, pk: int) -> Export:
    found = Export.objects.visible_to(_user(request)).select_related("project", "cohort", "created_by")
    export = get_object_or_404(found, pk=pk)
    if not may(_user(request), Action.MANAGE, export.project):
        raise PermissionDenied("Only managers of the project see its exports.")
    return export
