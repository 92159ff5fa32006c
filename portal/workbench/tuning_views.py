"""Looking for settings from the browser, and training with what was found."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from inference.errors import InferenceError
from inference.jobs.models import Job
from inference.training import exporting, toml
from inference.training.models import TrainingRun
from inference.tuning import services
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.workbench import presets, training_check
from portal.workbench.training_form import TrainingForm, task_for
from portal.workbench.tuning_form import TuningForm, preset_names, varied


@require_http_methods(["GET", "POST"])
def tuning_create(request: HttpRequest) -> HttpResponse:
    """GET with `?preset=`, `?run=` and `?cohort=`; POST searches settings, or with `rate` the learning rate.

    With `carry` the POST is the training form's, whose settings are shown here to vary them.
    """
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    whose = {"user": request.user, "project": current_project(request)}
    if "carry" in request.POST:
        made = training_check.of(TrainingForm(request.POST, **whose))
        if not made.toml:
            messages.warning(request, "The settings have mistakes: correct them first, then vary them.")
        initial = {name: request.POST.get(name) for name in ("cohort", "reference")}
        return _show(request, TuningForm(initial={**initial, "toml": varied(made.toml)}, **whose))
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
    return _fresh(request, whose)


def _fresh(request: HttpRequest, whose: dict[str, Any]) -> HttpResponse:
    """The settings of a run, of a preset, or of what is usual for the cohort's reference standard."""
    initial = {name: int(request.GET[name]) for name in ("cohort", "reference") if request.GET.get(name, "").isdigit()}
    if (number := request.GET.get("run", "")).isdigit():
        run = get_object_or_404(TrainingRun.objects.visible_to(request.user).select_related("reference"), pk=number)
        initial = {"cohort": run.reference.cohort_id, "reference": run.reference_id} | initial
        return _show(request, TuningForm(initial={**initial, "toml": varied(toml.text(run.config))}, **whose))
    chosen = request.GET.get("preset", "")
    if chosen not in preset_names():
        form = TuningForm(initial=initial, **whose)
        references = form.fields["reference"].queryset.filter(cohort=form.initial.get("cohort"))  # type: ignore[attr-defined]
        reference = references.filter(pk=initial["reference"]).first() if "reference" in initial else references.first()
        chosen = presets.usual(task_for(reference), reference) or preset_names()[0]
    text = (presets.FOLDER / f"{chosen}.toml").read_text(encoding="utf-8")
    return _show(request, TuningForm(initial={**initial, "toml": varied(text)}, **whose), preset=chosen)


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
