"""Looking for settings from the browser, and training with what was found."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from inference.errors import InferenceError
from inference.jobs.models import Job
from inference.training import exporting
from inference.training.models import TrainingRun
from inference.tuning import services
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.workbench.tuning_form import TuningForm, example, preset_names


@require_http_methods(["GET", "POST"])
def tuning_create(request: HttpRequest) -> HttpResponse:
    """GET with `?preset=` and `?cohort=`; POST searches settings, or with `rate` the learning rate."""
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    whose = {"user": request.user, "project": current_project(request)}
    if request.method == "POST":
        form = TuningForm(request.POST, searches="rate" not in request.POST, **whose)
        if form.is_valid():
            data = form.cleaned_data
            what = {
                "project": data["cohort"].project,
                "config": data["config"],
                "cohort": data["cohort"],
                "reference": data["reference"],
                "by": request.user,
            }
            try:
                job_id = (
                    services.start(search=data["search"], **what).job_id
                    if form.searches
                    else services.start_range_test(**what).pk
                )
            except InferenceError as error:
                form.add_error(None, f"{error.cause} {error.next_step}")
            else:
                return redirect("job", pk=job_id)
        return _show(request, form, status=422)
    names = preset_names()
    chosen = request.GET.get("preset", "")
    if chosen not in names:
        chosen = names[0] if names else ""
    initial: dict = {"toml": example(chosen)}
    for name in ("cohort", "reference"):
        if request.GET.get(name, "").isdigit():
            initial[name] = int(request.GET[name])
    return _show(request, TuningForm(initial=initial, **whose), preset=chosen)


@require_POST
def job_train(request: HttpRequest, pk: int) -> HttpResponse:
    """Start a training run with what a search or a range test found; `trial` names another one than the best."""
    job = get_object_or_404(Job.objects.visible_to(request.user).select_related("project"), pk=pk)
    if not may(request.user, Action.RUN, job.project):
        raise PermissionDenied
    number = request.POST.get("trial", "")
    try:
        run = services.train(job, number=int(number) if number.isdigit() else None, by=request.user)
    except InferenceError as error:
        messages.warning(request, f"{error.cause} {error.next_step}")
        return redirect("job", pk=pk)
    return redirect("job", pk=run.job_id)


@require_POST
def job_export(request: HttpRequest, pk: int) -> HttpResponse:
    """Export the training run of a job to MLflow, as a job of its own."""
    job = get_object_or_404(Job.objects.visible_to(request.user).select_related("project"), pk=pk)
    if not may(request.user, Action.RUN, job.project):
        raise PermissionDenied
    run = get_object_or_404(TrainingRun.objects.visible_to(request.user).select_related("project"), job=job)
    try:
        made = exporting.start(run, by=request.user)
    except InferenceError as error:
        messages.warning(request, f"{error.cause} {error.next_step}")
        return redirect("job", pk=pk)
    return redirect("job", pk=made.pk)


def _show(request: HttpRequest, form: TuningForm, *, preset: str = "", status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "presets": preset_names(),
        "preset": preset,
        "has_cohorts": form.fields["cohort"].queryset.exists(),  # type: ignore[attr-defined]
    }
    return render(request, "workbench/tuning_create.html", context, status=status)
