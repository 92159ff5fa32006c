"""Running and evaluating model versions from the browser."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from inference.errors import InferenceError
from inference.evaluation import services as evaluation
from inference.prediction import services as prediction
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, projects_where
from portal.workbench.run_forms import EvaluateForm, RunForm


@require_http_methods(["GET", "POST"])
def run_create(request: HttpRequest) -> HttpResponse:
    """GET takes `?version=`, `?cohort=` and any number of `?study=`."""
    whose = _whose(request)
    if request.method == "POST":
        form = RunForm(request.POST, **whose)
        if form.is_valid():
            data = form.cleaned_data
            target = (
                {"cohort": data["cohort"], "split": data["split"]}
                if data["where"] == "cohort"
                else {"studies": data["chosen"], "by_hand": data.get("by_hand")}
            )
            try:
                job = prediction.start(data["version"], by=request.user, priority=data["priority"], **target)
            except InferenceError as error:
                form.add_error(None, f"{error.cause} {error.next_step}")
            else:
                return redirect("job", pk=job.pk)
        return _show(request, "run_create", form, 422)
    studies = ",".join(word for word in request.GET.getlist("study") if word.replace(",", "").isdigit())
    initial = {**_initial(request), "studies": studies, "where": "studies" if studies else "cohort"}
    return _show(request, "run_create", RunForm(initial=initial, **whose))


@require_http_methods(["GET", "POST"])
def evaluate_create(request: HttpRequest) -> HttpResponse:
    """GET takes `?version=`, `?cohort=` and `?reference=`."""
    whose = _whose(request)
    if request.method == "POST":
        form = EvaluateForm(request.POST, **whose)
        if form.is_valid():
            data = form.cleaned_data
            try:
                made = evaluation.start(
                    data["version"],
                    data["cohort"],
                    reference=data["reference"],
                    split=data["split"],
                    by=request.user,
                    priority=data["priority"],
                )
            except InferenceError as error:
                form.add_error(None, f"{error.cause} {error.next_step}")
            else:
                return redirect("job", pk=made.job_id)
        return _show(request, "evaluate_create", form, 422)
    return _show(request, "evaluate_create", EvaluateForm(initial=_initial(request), **whose))


def _whose(request: HttpRequest) -> dict:
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    return {"user": request.user, "project": current_project(request)}


def _initial(request: HttpRequest) -> dict:
    return {
        name: int(request.GET[name])
        for name in ("version", "cohort", "reference")
        if request.GET.get(name, "").isdigit()
    }


def _show(request: HttpRequest, page: str, form, status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "has_versions": form.fields["version"].queryset.exists(),
        "has_cohorts": form.fields["cohort"].queryset.exists(),
    }
    return render(request, f"workbench/{page}.html", context, status=status)
