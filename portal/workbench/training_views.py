"""Starting a training run or a cross-validation from the browser."""

from __future__ import annotations

import tomllib
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from inference.errors import ConfigError, InferenceError
from inference.networks import table
from inference.training import config as schema
from inference.training import crossvalidation, services, traditional
from inference.training.models import TrainingRun
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, projects_where
from portal.workbench import presets, training_check
from portal.workbench import training_fields as fields
from portal.workbench.training_form import TrainingForm, initial_of, references_for, task_for
from studies.cohorts.models import Cohort, ReferenceStandard

LARGEST_TOML = 256 * 1024


@require_http_methods(["GET", "POST"])
def training_create(request: HttpRequest) -> HttpResponse:
    """GET with `?preset=`, `?run=` (whose settings are shown), `?cohort=` and `?reference=`. POST starts a run, or with
    `action=cross_validate` a cross-validation; with `fill` it reads TOML into the form, with `refresh` it draws the
    form anew for the chosen reference standard and network."""
    whose = _whose(request)
    if request.method == "GET":
        return _fresh(request, whose)
    if "fill" in request.POST:
        return _fill(request, whose)
    if "refresh" in request.POST:
        return _refreshed(request, whose)
    form = TrainingForm(request.POST, **whose)
    if form.is_valid():
        chosen = {
            "project": form.cleaned_data["cohort"].project,
            "config": form.cleaned_data["config"],
            "cohort": form.cleaned_data["cohort"],
            "reference": form.cleaned_data["reference"],
            "priority": form.cleaned_data["priority"],
            "by": request.user,
        }
        try:
            if request.POST.get("action") == "cross_validate":
                return redirect("cross_validation", pk=crossvalidation.start(**chosen).pk)
            return redirect("job", pk=services.start(**chosen).job_id)
        except InferenceError as error:
            form.add_error(None, f"{error.cause} {error.next_step}")
    return _show(request, form, status=422)


@require_POST
def training_check_view(request: HttpRequest) -> HttpResponse:
    """What the form would start, asked while somebody types: problems by field, cases, earlier runs, the TOML."""
    form = TrainingForm(request.POST, **_whose(request))
    return render(request, "workbench/training_check.html", {"check": training_check.of(form, by=request.user)})


@require_POST
def against_traditional(request: HttpRequest) -> HttpResponse:
    """Deep learning against traditional methods in one click: on a cohort with a reference standard, or with the
    settings of a run."""
    whose = _whose(request)
    run = None
    if request.POST.get("run", "").isdigit():
        run = get_object_or_404(_runs(request), pk=request.POST["run"])
        cohort, reference = run.reference.cohort, run.reference
    else:
        pk = request.POST.get("reference", "")
        mine = ReferenceStandard.objects.visible_to(request.user).select_related("cohort__project")
        reference = get_object_or_404(mine, pk=pk if pk.isdigit() else 0)
        cohort = reference.cohort
    if not projects_where(request.user, Action.RUN).filter(pk=cohort.project_id).exists():
        raise PermissionDenied
    try:
        config = traditional.configuration(cohort, reference, like=run.config if run else None)
        made = crossvalidation.start(
            project=cohort.project, config=config, cohort=cohort, reference=reference, by=request.user
        )
    except InferenceError as error:
        initial = {"cohort": cohort.pk, "reference": reference.pk}
        form = TrainingForm(initial=_initial(run, reference) | initial, **whose)
        return _show(request, form, toml_errors=[f"{error.cause} {error.next_step}"], status=422)
    return redirect("cross_validation", pk=made.pk)


def _whose(request: HttpRequest) -> dict[str, Any]:
    if not projects_where(request.user, Action.RUN).exists():
        raise PermissionDenied
    return {"user": request.user, "project": current_project(request)}


def _runs(request: HttpRequest):
    return TrainingRun.objects.visible_to(request.user).select_related("reference__cohort__project")


def _initial(run: TrainingRun | None, reference: ReferenceStandard | None, preset: str = "") -> dict[str, Any]:
    """What the fields show: the settings of a run, of a preset, or of what is usual for the reference standard."""
    if run is not None:
        return initial_of(run.config)
    config = presets.load(preset or presets.usual(task_for(reference), reference))
    return initial_of(config) if config else {"task": task_for(reference)}


def _fresh(request: HttpRequest, whose: dict[str, Any]) -> HttpResponse:
    run = None
    if request.GET.get("run", "").isdigit():
        run = get_object_or_404(_runs(request), pk=request.GET["run"])
    chosen = {name: int(request.GET[name]) for name in ("cohort", "reference") if request.GET.get(name, "").isdigit()}
    if run is not None:
        chosen = {"cohort": run.reference.cohort_id, "reference": run.reference_id} | chosen
    form = TrainingForm(initial=chosen, **whose)
    reference = _reference(form, form.initial.get("cohort"), form.initial.get("reference"))
    preset = request.GET.get("preset", "")
    config = presets.load(preset) if preset else None
    if config is None or (reference and task_for(reference, config["task"]) != config["task"]):
        preset = "" if run else presets.usual(task_for(reference), reference)
    return _show(request, TrainingForm(initial=_initial(run, reference, preset) | chosen, **whose), preset=preset)


def _reference(form: TrainingForm, cohort: Any, reference: Any) -> ReferenceStandard | None:
    """The chosen reference standard, or the newest of the chosen cohort."""
    offered = form.fields["reference"].queryset  # type: ignore[attr-defined]
    if str(reference or "").isdigit():
        return offered.filter(pk=reference, **({"cohort": cohort} if str(cohort or "").isdigit() else {})).first()
    if str(cohort or "").isdigit():
        return references_for(Cohort.objects.filter(pk=cohort)).filter(pk__in=offered).first()
    return None


def _refreshed(request: HttpRequest, whose: dict[str, Any]) -> HttpResponse:
    """The form for another reference standard, task or network; what still fits stays as it was typed."""
    form = TrainingForm(request.POST, **whose)
    reference = _reference(form, request.POST.get("cohort"), request.POST.get("reference"))
    task = task_for(reference, request.POST.get("task", ""))
    chosen = {name: request.POST.get(name) for name in ("cohort", "reference")}
    if not reference and chosen["reference"]:
        chosen["reference"] = ""  # of another cohort
    known = request.POST.get("shown", "")
    if task != known:
        preset = presets.usual(task, reference)
        initial = initial_of(config) if (config := presets.load(preset)) else {"task": task}
        return _show(request, TrainingForm(initial=initial | chosen, **whose), preset=preset)
    data = request.POST.copy()
    data["task"] = task
    data["reference"] = chosen["reference"] or ""
    _fit_network(data)
    for place, key in fields.shown(task, data.get("training.strategy", "")):  # those that another strategy had hidden
        if place not in data and place not in fields.MULTIPLE and key.default is not schema.REQUIRED:
            data[place] = str(fields.written(key.default, key))
    if data.get("training.strategy") in ("frozen", "transfer") and not data.get("training.weights"):
        data["training.weights"] = "imagenet" if data.get("network.name") == table.PACKAGED else ""
    if not data.get("training.loss") or data["training.loss"] not in fields.LOSSES.get(task, ()):
        data["training.loss"] = schema.LOSS.get(task, schema.SECTIONS["training"]["loss"].default)
    form = TrainingForm(data, **whose)
    form.is_valid()
    form.errors.clear()
    return _show(request, form)


def _fit_network(data: QueryDict) -> None:
    """After another network was chosen: parameters that it does not take go, and so do dimensions that it lacks."""
    network = table.NETWORKS.get(data.get("network.name", ""))
    if network is None:
        return
    try:
        given = tomllib.loads(data.get("network.parameters", ""))
    except tomllib.TOMLDecodeError:
        return  # said beside the field
    if set(given) - set(network.defaults):
        data["network.parameters"] = ""
    if data.get("network.dimensions") not in [str(n) for n in network.dimensions]:
        data["network.dimensions"] = str(network.dimensions[0])
    patch = data.get("training.patch", "").replace(",", " ").split()
    if data["network.dimensions"] == "2" and len(patch) == 3:
        data["training.patch"] = " ".join(["1", *patch[1:]])


def _fill(request: HttpRequest, whose: dict[str, Any]) -> HttpResponse:
    file, text = request.FILES.get("toml"), request.POST.get("text", "")
    name = file.name if file else "The text"
    chosen = {place: request.POST.get(place) or None for place in ("cohort", "reference")}
    problems: list[str] = []
    config = None
    if file is None and not text.strip():
        problems = ["Choose a TOML file, or write the text first."]
    elif file is not None and file.size > LARGEST_TOML:
        problems = [f"{name} is no configuration: it is larger than {LARGEST_TOML // 1024} kB."]
    else:
        try:
            config = schema.parse(file.read().decode("utf-8") if file else text)
        except UnicodeDecodeError:
            problems = [f"{name} is not text in UTF-8."]
        except ConfigError as error:
            problems = [f"{name} has mistakes:", *error.problems]
    if config is None:
        if "name" in request.POST:  # sent along with the fields, which stay as they were typed
            form = TrainingForm(request.POST, **whose)
            form.is_valid()
            form.errors.clear()
        else:
            preset = presets.load(presets.usual(task_for(None, request.POST.get("task", "")), None))
            form = TrainingForm(initial=(initial_of(preset) if preset else {}) | chosen, **whose)
        return _show(request, form, toml_errors=problems, text=text, status=422)
    messages.info(request, f"The form shows {name if file else 'the text'} now. Check it, then start.")
    return _show(request, TrainingForm(initial=initial_of(config) | chosen, **whose))


def _show(
    request: HttpRequest,
    form: TrainingForm,
    *,
    preset: str = "",
    toml_errors: list[str] | None = None,
    text: str = "",
    status: int = 200,
) -> HttpResponse:
    reference = _reference(form, form["cohort"].value(), form["reference"].value())
    if reference is not None:
        form.possible = fields.TASKS.get(reference.kind, ()) or form.possible
    context = {
        "form": form,
        "presets": [(name, presets.summary(name)) for name in presets.names(form.task_name)],
        "preset": preset,
        "toml_errors": toml_errors or [],
        "text": text,
        "check": training_check.of(form.filled()),
        "has_cohorts": form.fields["cohort"].queryset.exists(),
    }
    # htmx swaps what it gets with 200 alone; the words about the mistake are part of the page.
    return render(request, "workbench/training_create.html", context, status=200 if request.htmx else status)
