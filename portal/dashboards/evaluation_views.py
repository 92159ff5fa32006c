"""The evaluation matrix, one evaluation, its cases as CSV."""

from __future__ import annotations

import csv
from io import StringIO

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from inference.evaluation.models import Evaluation
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.dashboards import evaluation as page
from portal.dashboards import matrix
from portal.dashboards.figures import FIGURES, NEEDS, SWITCH


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
    user = request.user
    evaluation = _evaluation(request, pk)
    results, hidden = page.case_results(evaluation, user)
    roc, roc_label, no_roc = page.roc(evaluation, results)
    cases = {result.case_id for result in results}
    smallest = min((e.get("dice", {}).get("n") or 0 for e in evaluation.summary.values()), default=0)
    context = {
        "evaluation": evaluation,
        "project": evaluation.version.model.project,
        "cohort": evaluation.reference.cohort,
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
        "results": results,
        "case_count": len(cases),
        "hidden": hidden,
        "worst": page.worst(results),
        "warnings": matrix.overlap_warnings(evaluation),
        "failed_cases": (evaluation.overlap or {}).get("failed_cases") or [],
        "few": 0 < smallest < NEEDS,
        "smallest": smallest,
        "needs": NEEDS,
        "may_run": may(user, Action.RUN, evaluation.version.model.project),
    }
    return render(request, "dashboards/evaluation.html", context)


@require_safe
def evaluation_cases(request: HttpRequest, pk: int) -> HttpResponse:
    evaluation = _evaluation(request, pk)
    results, _ = page.case_results(evaluation, request.user)
    text = StringIO()
    csv.writer(text).writerows(page.csv_rows(results))
    response = HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="evaluation-{evaluation.pk}-cases.csv"'
    return response
