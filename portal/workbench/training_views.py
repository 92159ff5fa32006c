"""Starting a training run from the browser."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from inference.errors import ConfigError, InferenceError
from inference.training import config as schema
from inference.training import services
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, projects_where
from portal.workbench import presets
from portal.workbench.training_form import TrainingForm, initial_of

LARGEST_TOML = 256 * 1024


@require_http_methods(["GET", "POST"])
def training_create(request: HttpRequest) -> HttpResponse:
    """GET with `?preset=` and `?cohort=`; POST starts, or with `fill` reads an uploaded TOML file into the form."""
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    whose = {"user": request.user, "project": current_project(request)}
    if request.method == "POST" and "fill" in request.POST:
        return _fill(request, whose)
    if request.method == "POST":
        form = TrainingForm(request.POST, **whose)
        if form.is_valid():
            try:
                run = services.start(
                    project=form.cleaned_data["cohort"].project,
                    config=form.cleaned_data["config"],
                    cohort=form.cleaned_data["cohort"],
                    reference=form.cleaned_data["reference"],
                    by=request.user,
                    priority=form.cleaned_data["priority"],
                )
            except InferenceError as error:
                form.add_error(None, f"{error.cause} {error.next_step}")
            else:
                return redirect("job", pk=run.job_id)
        return _show(request, form, status=422)
    names = presets.names()
    chosen = request.GET.get("preset", "")
    if chosen not in names:
        chosen = names[0] if names else ""
    config = presets.load(chosen) if chosen else None
    initial = initial_of(config) if config else {}
    for name in ("cohort", "reference"):
        if request.GET.get(name, "").isdigit():
            initial[name] = int(request.GET[name])
    return _show(request, TrainingForm(initial=initial, **whose), preset=chosen)


def _fill(request: HttpRequest, whose: dict) -> HttpResponse:
    file = request.FILES.get("toml")
    form = TrainingForm(request.POST, **whose)
    form.is_valid()
    form.errors.clear()
    problem = ""
    if file is None:
        problem = "Choose a TOML file first."
    elif file.size > LARGEST_TOML:
        problem = f"{file.name} is no configuration: it is larger than {LARGEST_TOML // 1024} kB."
    else:
        try:
            config = schema.parse(file.read().decode("utf-8"))
        except UnicodeDecodeError:
            problem = f"{file.name} is not text in UTF-8."
        except ConfigError as error:
            return _show(request, form, toml_errors=[f"{file.name} has mistakes:", *error.problems], status=422)
        else:
            initial = initial_of(config) | {name: request.POST.get(name) for name in ("cohort", "reference")}
            messages.info(request, f"The form shows {file.name} now. Check it, then start.")
            return _show(request, TrainingForm(initial=initial, **whose))
    return _show(request, form, toml_errors=[problem], status=422)


def _show(
    request: HttpRequest,
    form: TrainingForm,
    *,
    preset: str = "",
    toml_errors: list[str] | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "form": form,
        "presets": [(name, presets.summary(name)) for name in presets.names()],
        "preset": preset,
        "toml_errors": toml_errors or [],
        "has_cohorts": form.fields["cohort"].queryset.exists(),
    }
    return render(request, "workbench/training_create.html", context, status=status)
