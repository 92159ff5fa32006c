"""De-identified exports: ordering, signing off pixels, report and file, and the way back for administrators."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from inference.jobs.services import submit
from portal.accounts.current import current_project
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from portal.worklist.tasks import export_deidentified
from studies.cohorts.models import Cohort
from studies.deid import pixels, services
from studies.deid.errors import DeidError
from studies.deid.models import Export, PixelReview
from studies.deid.profile import Option, Profile

WORDS = {
    Option.SHIFT_DATES: "Keep intervals: shift all dates",
    Option.CLEAN_DESCRIPTORS: "Keep cleaned descriptions",
    Option.CLEAN_PIXELS: "Text in pixels is blanked",
    Option.RETAIN_PATIENT: "Keep sex, age and size",
    Option.RETAIN_DEVICE: "Keep device identity",
    Option.RETAIN_INSTITUTION: "Keep institution",
    Option.RETAIN_UIDS: "Keep UIDs",
    Option.RETAIN_SAFE_PRIVATE: "Keep safe private attributes",
}


class ExportForm(forms.Form):
    cohort = forms.ModelChoiceField(Cohort.objects.none(), empty_label=None)
    options = forms.MultipleChoiceField(
        choices=[(option.value, WORDS[option]) for option in Option],
        required=False,
        initial=[Option.SHIFT_DATES, Option.CLEAN_DESCRIPTORS],
        widget=forms.CheckboxSelectMultiple,
        help_text="Everything else follows the Basic Application Level Confidentiality Profile.",
    )
    nifti = forms.BooleanField(label="NIfTI volumes, too", required=False)

    def __init__(self, *args, project: Project, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["cohort"].queryset = Cohort.objects.filter(project=project).order_by("name")  # type: ignore[attr-defined]


@require_http_methods(["GET", "HEAD", "POST"])
def exports(request: HttpRequest) -> HttpResponse:
    """Order an export of a cohort, and the exports so far. `?project=<slug>` chooses the project."""
    project = _project(request)
    form = ExportForm(request.POST if request.method == "POST" else None, project=project)
    if request.method == "POST" and form.is_valid():
        profile = Profile(frozenset(Option(value) for value in form.cleaned_data["options"]))
        try:
            export = services.order(
                project=project,
                profile=profile,
                by=request.user,  # type: ignore[arg-type]
                cohort=form.cleaned_data["cohort"],
                nifti=form.cleaned_data["nifti"],
            )
        except DeidError as error:
            form.add_error(None, str(error))
        else:
            _start(request, export)
            return redirect("export", pk=export.pk)
    found = Export.objects.filter(project=project).select_related("cohort", "created_by").order_by("-pk")[:100]
    context = {
        "form": form,
        "project": project,
        "projects": projects_where(request.user, Action.MANAGE).order_by("name"),
        "exports": found,
        "has_cohorts": form.fields["cohort"].queryset.exists(),  # type: ignore[attr-defined]
    }
    return render(request, "worklist/exports.html", context, status=422 if form.errors else 200)


@require_safe
def export(request: HttpRequest, pk: int) -> HttpResponse:
    export = _managed(request, pk)
    studies = export.studies.order_by("pk")
    reviews = PixelReview.objects.filter(series__study__in=studies).select_related("series", "by").order_by("pk")
    context = {
        "export": export,
        "reviews": reviews,
        "studies": studies.count(),
        "decisions": PixelReview.Decision.choices,
    }
    return render(request, "worklist/export.html", context)


@require_safe
def export_download(request: HttpRequest, pk: int) -> HttpResponse:
    export = _managed(request, pk)
    try:
        file = services.read_zip(export)
    except DeidError as error:
        messages.error(request, str(error))
        return redirect("export", pk=pk)
    return FileResponse(file, as_attachment=True, filename=f"readroom-export-{export.pk}.zip")


@require_POST
def export_review(request: HttpRequest, pk: int, review: int) -> HttpResponse:
    """A manager's decision about one series; after the last one the export goes on by itself."""
    export = _managed(request, pk)
    studies = export.studies.all()
    question = get_object_or_404(PixelReview.objects.filter(series__study__in=studies), pk=review)
    try:
        pixels.sign(question, decision=request.POST.get("decision", ""), by=request.user)  # type: ignore[arg-type]
    except DeidError as error:
        messages.error(request, str(error))
        return redirect("export", pk=pk)
    waiting = PixelReview.objects.filter(series__study__in=studies, decision="").exists()
    if export.state == Export.State.BLOCKED and not waiting:
        _start(request, export)
    return redirect("export", pk=pk)


@require_POST
def reidentify(request: HttpRequest) -> HttpResponse:
    """Who is behind a pseudonym, for administrators; the question is recorded."""
    project = get_object_or_404(Project.objects.visible_to(request.user), slug=request.POST.get("project", ""))
    try:
        found = services.reidentify(project, request.POST.get("pseudonym", ""), by=request.user)  # type: ignore[arg-type]
    except DeidError as error:
        if error.code == "not_allowed":
            raise PermissionDenied(str(error)) from error
        messages.error(request, str(error))
        return redirect("exports")
    return redirect("patient", pk=found.patient_id)


def _start(request: HttpRequest, export: Export) -> None:
    services.queued(export)
    title = f"De-identified export of {export.cohort or 'studies'}"
    submit(export_deidentified, project=export.project, title=title, parameters={"export": export.pk}, by=request.user)  # type: ignore[arg-type]


def _project(request: HttpRequest) -> Project:
    possible = projects_where(request.user, Action.MANAGE).order_by("name")
    slug = request.POST.get("project") or request.GET.get("project")
    current = current_project(request)
    if slug:
        visible = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
        project = possible.filter(pk=visible.pk).first()
    else:
        project = (possible.filter(pk=current.pk).first() if current else None) or possible.first()
    if project is None:
        raise PermissionDenied("Only managers of a project export its studies.")
    return project


def _managed(request: HttpRequest, pk: int) -> Export:
    found = Export.objects.visible_to(request.user).select_related("project", "cohort", "created_by")  # type: ignore[arg-type]
    export = get_object_or_404(found, pk=pk)
    if not may(request.user, Action.MANAGE, export.project):  # type: ignore[arg-type]
        raise PermissionDenied("Only managers of the project see its exports.")
    return export
