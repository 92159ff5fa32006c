"""The evaluation matrix, one evaluation, its cases as CSV."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from inference.evaluation import overlap
from inference.evaluation.models import CaseResult, Evaluation
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.dashboards import classes, findings, matrix
from portal.dashboards import evaluation as page
from portal.dashboards.figures import FIGURES, NEEDS, SWITCH
from portal.frame import spreadsheets


@require_safe
def evaluations(request: HttpRequest) -> HttpResponse:
    metric = request.GET.get("metric", "dice")
    if metric not in SWITCH:
        metric = "dice"
    structure = request.GET.get("structure", "")
    table = matrix.build(request.user, current_project(request), metric, structure)
    context = {
        "matrix": table,
        "metric": metric,
        "metric_name": SWITCH[metric],
        "detail": FIGURES[metric].detail,
        "switch": SWITCH,
        "structure": structure if structure in table.structures else "",
        "needs": NEEDS,
        "may_run": projects_where(request.user, Action.RUN).exists(),
    }
    return render(request, "dashboards/evaluations.html", context)


def _evaluation(request: HttpRequest, pk: int) -> Evaluation:
    rows = Evaluation.objects.visible_to(request.user).select_related(
        "version__model__project", "reference__cohort", "job", "created_by"
    )
    return get_object_or_404(rows, pk=pk)


@require_safe
def evaluation(request: HttpRequest, pk: int) -> HttpResponse:
    evaluation = _evaluation(request, pk)
    results, hidden = page.case_results(evaluation, request.user)
    if evaluation.finished_at and evaluation.version.manifest["task"] == "classification":
        return _classifier(request, evaluation, results, hidden)
    if evaluation.finished_at and evaluation.version.manifest["task"] == "detection":
        return _detector(request, evaluation, results, hidden)
    roc, roc_label, no_roc = page.roc(evaluation, results)
    smallest = min((e.get("dice", {}).get("n") or 0 for e in evaluation.summary.values()), default=0)
    context = {
        **_shared(request, evaluation, results, hidden),
        "headline": page.headline(evaluation),
        "rows": page.figure_rows(evaluation),
        "charts": [
            {"name": key, "title": FIGURES[key].name, "spec": spec, "label": page.distribution_label(evaluation, key)}
            for key in ("dice", "sensitivity")
            if (spec := page.distribution(evaluation, results, key))
        ],
        "roc": roc,
        "roc_label": roc_label,
        "no_roc": no_roc,
        "worst": page.worst(results),
        "few": 0 < smallest < NEEDS,
        "smallest": smallest,
    }
    return render(request, "dashboards/evaluation.html", context)


def _shared(request: HttpRequest, evaluation: Evaluation, results: list[CaseResult], hidden: int) -> dict[str, Any]:
    """What the page of every kind of model shows."""
    project = evaluation.version.model.project
    return {
        "evaluation": evaluation,
        "project": project,
        "cohort": evaluation.reference.cohort,
        "results": results,
        "case_count": len({result.case_id for result in results}),
        "hidden": hidden,
        "warnings": overlap.words(evaluation.overlap),
        "failed_cases": (evaluation.overlap or {}).get("failed_cases") or [],
        "needs": NEEDS,
        "may_run": may(request.user, Action.RUN, project),
    }


def _classifier(request: HttpRequest, evaluation: Evaluation, results: list[CaseResult], hidden: int) -> HttpResponse:
    """`?class=` and `?threshold=` choose the operating point that is looked at."""
    shown = classes.context(evaluation, results, request.GET.get("class", ""), request.GET.get("threshold", ""))
    n = shown["figures"].get("n", 0)
    context = {
        **_shared(request, evaluation, results, hidden),
        **shown,
        "few": 0 < n < NEEDS,
        "smallest": n,
    }
    return render(request, "dashboards/evaluation_classes.html", context)


def _detector(request: HttpRequest, evaluation: Evaluation, results: list[CaseResult], hidden: int) -> HttpResponse:
    """`?threshold=` chooses the score from which boxes count."""
    shown = findings.context(evaluation, results, request.GET.get("threshold", ""))
    context = {**_shared(request, evaluation, results, hidden), **shown, "few": 0 < shown["smallest"] < NEEDS}
    return render(request, "dashboards/evaluation_findings.html", context)


@require_safe
def evaluation_cases(request: HttpRequest, pk: int) -> HttpResponse:
    evaluation = _evaluation(request, pk)
    results, _ = page.case_results(evaluation, request.user)
    if evaluation.version.manifest["task"] == "classification":
        names = classes.in_order(evaluation)
        rows = classes.csv_rows(classes.rows(results, names), names)
    elif evaluation.version.manifest["task"] == "detection":
        rows = findings.csv_rows(results)
    else:
        rows = page.csv_rows(results)
    return spreadsheets.answer(rows, f"evaluation-{evaluation.pk}-cases")
