"""The list of training runs and cross-validations, and runs side by side."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.db.models import Case, When
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from inference.training import toml
from inference.training.models import CrossValidation, TrainingRun
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, projects_where
from portal.frame import spreadsheets
from portal.workbench import comparison, validation_figures

PAGE = 25
LINES = 3  # figures of a run in the list
NAMES = ("project", "job", "reference__cohort", "created_by")


@require_safe
def training_runs(request: HttpRequest) -> HttpResponse:
    """`?show=rounds` lists cross-validations; `?page=`; `?run=` is ticked and comes first."""
    rounds = request.GET.get("show") == "rounds"
    runs = TrainingRun.objects.visible_to(request.user).select_related(*NAMES, "version__model")
    validations = CrossValidation.objects.visible_to(request.user).select_related(*NAMES)
    if project := current_project(request):
        runs, validations = runs.filter(project=project), validations.filter(project=project)
    chosen = int(request.GET["run"]) if request.GET.get("run", "").isdigit() else 0
    order = [Case(When(pk=chosen, then=0), default=1), "-pk"] if chosen else ["-pk"]
    shown = (validations if rounds else runs).order_by(*order)
    page = Paginator(shown, PAGE).get_page(request.GET.get("page"))
    if not rounds:
        for row in page:
            found = validation_figures.of(row.version.manifest) if row.version else {}
            row.validation = dict(list(found.items())[:LINES])
    context = {
        "page": page,
        "rounds": rounds,
        "chosen": chosen,
        "counts": {"runs": runs.count(), "rounds": validations.count()},
        "may_train": projects_where(request.user, Action.RUN).exists(),
        "most": comparison.MOST,
    }
    return render(request, "workbench/training_runs.html", context)


@require_safe
def training_compare(request: HttpRequest) -> HttpResponse:
    """`?run=` for each of two to six runs; `?settings=all` shows settings that are the same, too."""
    runs = _chosen(request)
    context = {
        "enough": comparison.LEAST <= len(runs) <= comparison.MOST,
        "least": comparison.LEAST,
        "most": comparison.MOST,
        "chosen": len(runs),
        "every": request.GET.get("settings") == "all",
        "query": "&".join(f"run={run.pk}" for run in runs),
    }
    if context["enough"]:
        context["made"] = comparison.build(runs, request.user)
    return render(request, "workbench/training_compare.html", context)


@require_safe
def training_compare_export(request: HttpRequest, extension: str) -> HttpResponse:
    runs = _chosen(request)
    if extension not in ("csv", "json"):
        raise Http404
    if not comparison.LEAST <= len(runs) <= comparison.MOST:
        return HttpResponseBadRequest("Name two to six runs: ?run=1&run=2", content_type="text/plain; charset=utf-8")
    made = comparison.build(runs, request.user)
    name = "runs-" + "-".join(str(run.pk) for run in runs)
    if extension == "csv":
        return spreadsheets.answer(comparison.table(made), name)
    response = JsonResponse(comparison.report(made), json_dumps_params={"indent": 1, "ensure_ascii": False})
    response["Content-Disposition"] = f'attachment; filename="{name}.json"'
    return response


@require_safe
def training_toml(request: HttpRequest, pk: int) -> HttpResponse:
    """The configuration of a run, as `manage.py train` takes it."""
    run = get_object_or_404(TrainingRun.objects.visible_to(request.user), pk=pk)
    response = HttpResponse(toml.text(run.config), content_type="application/toml; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="run-{run.pk}.toml"'
    return response


def _chosen(request: HttpRequest) -> list[TrainingRun]:
    """The runs of the address in its order, each once. 404 where one is not there for this user."""
    numbers = list(dict.fromkeys(int(text) for text in request.GET.getlist("run") if text.isdigit()))
    found = {
        run.pk: run
        for run in TrainingRun.objects.visible_to(request.user)
        .filter(pk__in=numbers)
        .select_related(*NAMES, "version__model")
    }
    if set(numbers) - set(found):
        raise Http404
    return [found[number] for number in numbers]
