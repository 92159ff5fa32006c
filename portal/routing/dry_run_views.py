"""What a rule would do with the archive: beside the form while it is written, and as a page with every study."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from inference.routing import matching, preview, services
from inference.routing import rules as service
from inference.routing.conditions import RuleError
from inference.routing.matching import Verdict
from inference.routing.models import RoutingRule
from portal.accounts.permissions import Action, may
from portal.routing.forms import RuleForm
from portal.routing.views import project_asked_for, visible

PAGE = 25
PERIODS = (("7", "7 days"), ("30", "30 days"), ("365", "a year"), ("all", "everything"))
STATUS = {
    Verdict.MATCH: "run", Verdict.PRESENT: "ok", Verdict.NO_MATCH: "none", Verdict.HELD: "warn",
    Verdict.UNSETTLED: "info", Verdict.SKIPPED: "warn",
}  # fmt: skip


@require_POST
def preview_form(request: HttpRequest) -> HttpResponse:
    """The numbers for a rule as its form stands, of the last 30 days. Changes nothing."""
    project, _ = project_asked_for(request)
    form = RuleForm(request.POST, project=project)
    form.fields["name"].required = False
    context: dict[str, Any] = {}
    if form.is_valid():
        values = form.values()
        del values["name"]
        try:
            context["tally"] = preview.tally(service.draft(project, **values), 30, most=preview.AT_A_GLANCE)
        except RuleError as error:
            context["problem"] = error
    elif "runs" in form.errors and len(form.errors) == 1:
        context["unready"] = True
    else:
        context["problem"] = RuleError(
            " ".join(
                f"{form[name].label}: {' '.join(said)}" for name, said in form.errors.items() if name in form.fields
            ),
            "Correct the form.",
        )
    return render(request, "routing/preview.html", context)


@require_safe
def rule_try(request: HttpRequest, pk: int) -> HttpResponse:
    """`?days=` (a number or `all`), `?verdict=`, `?page=`."""
    rule = _changeable(request, pk)
    asked = request.GET.get("days", "30")
    try:
        days = preview.days_of(asked)
    except RuleError:
        asked, days = "30", 30
    said = request.GET.get("verdict", "")
    verdict = Verdict(said) if said in list(Verdict) else None
    number = request.GET.get("page", "1")
    number_of_page = int(number) if number.isdecimal() and 0 < int(number) < 10_000 else 1
    tally, rows = preview.page(rule, days, verdict, number=number_of_page, size=PAGE)
    total = tally.studies if verdict is None else tally.counts[verdict]
    page = Paginator(range(total), PAGE).get_page(number_of_page)
    if not rows and total:  # a page past the end
        _, rows = preview.page(rule, days, verdict, number=page.number, size=PAGE)
    context = {
        "rule": rule, "days": asked, "periods": PERIODS, "tally": tally, "verdict": said if verdict else "",
        "counts": [(one, matching.WORDS[one], tally.counts[one], STATUS[one]) for one in Verdict],
        "rows": [(row, STATUS[row.verdict]) for row in rows], "page": page, "matches": tally.counts[Verdict.MATCH],
        "most": services.MOST_AT_ONCE, "query": urlencode({"days": asked, "verdict": said if verdict else ""}),
        "period": dict(PERIODS).get(asked, f"{asked} days"),
    }  # fmt: skip
    return render(request, "routing/try.html", context)


@require_POST
def rule_run(request: HttpRequest, pk: int) -> HttpResponse:
    """Run what matches among the studies of `days`, the newest first."""
    rule = _changeable(request, pk)
    user: Any = request.user
    try:
        days = preview.days_of(request.POST.get("days", ""))
    except RuleError as error:
        messages.error(request, str(error))
        return redirect("rule_try", pk=pk)
    done = services.run_now(rule, preview.tally(rule, days).matches, by=user)
    if done:
        jobs = len({row.job_id for row in done})
        studies = "1 study" if len(done) == 1 else f"{len(done)} studies"
        messages.success(request, f"{rule} runs on {studies} in {jobs} job{'' if jobs == 1 else 's'}.")
    else:
        messages.info(request, "No study matches now, so nothing was started.")
    return redirect("rule", pk=pk)


def _changeable(request: HttpRequest, pk: int) -> RoutingRule:
    user: Any = request.user
    rule = get_object_or_404(visible(user), pk=pk)
    if not may(user, Action.RUN, rule.project):
        raise PermissionDenied("Managers and engineers of the project try out and run its rules.")
    return rule
