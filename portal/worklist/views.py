"""The worklist, a study, a patient."""

from __future__ import annotations

import time

from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from inference.prediction.models import Prediction
from inference.routing.models import RoutedStudy
from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from portal.worklist import filters, history
from portal.worklist.rows import build, in_order, person
from studies.models import Origin, Patient, Series, Study


@require_http_methods(["GET", "HEAD", "POST"])
def studies(request: HttpRequest) -> HttpResponse:
    """The worklist. POST changes nothing: it carries the search text, which may name a patient, out of the address."""
    started = time.perf_counter()
    user, chosen = request.user, current_project(request)
    wanted = filters.StudyFilter.of(request.POST if request.method == "POST" else request.GET)
    found = wanted.apply(user, chosen, timezone.localdate())
    keys, total, page, pages = filters.page_of(found, wanted)
    first = (page - 1) * filters.PAGE_SIZE
    rows = build(in_order(keys, user), user)
    context = {
        "filter": wanted,
        "rows": rows,
        "total": total,
        "first": first + 1,
        "last": first + len(rows),
        "newer": page - 1 if page > 1 else None,
        "older": page + 1 if page < pages else None,
        "milliseconds": round(1000 * (time.perf_counter() - started)),
        "show_project": chosen is None,
        "may_curate": projects_where(user, Action.CURATE).exists(),
    }
    if request.htmx:
        response = render(request, "worklist/rows.html", context)
        response["HX-Replace-Url"] = wanted.address(reverse("studies"))
        return response
    any_study = total > 0 or Study.objects.visible_to(user).exists()
    context |= {
        "choices": filters.choices(user, chosen) if any_study else {},
        "since": filters.SINCE,
        "ai": filters.AI,
        "quality": filters.QUALITY,
        "any_study": any_study,
        "may_import": projects_where(user, Action.IMPORT).exists(),
        "may_run": projects_where(user, Action.RUN).exists(),
        "may_export": projects_where(user, Action.MANAGE).exists(),
    }
    return render(request, "worklist/studies.html", context)


@require_safe
def study(request: HttpRequest, pk: int) -> HttpResponse:
    user = request.user
    study = get_object_or_404(Study.objects.visible_to(user).select_related("patient", "project"), pk=pk)
    series = list(
        Series.objects.visible_to(user)
        .filter(study=study)
        .select_related("created_by")
        .prefetch_related("quality_findings")
        .order_by("series_number", "id")
    )
    routed = RoutedStudy.objects.filter(current=True).select_related("rule", "node", "push_job")
    results = list(
        Prediction.objects.visible_to(user)
        .filter(study=study)
        .select_related("version__model", "image", "job__created_by")
        .prefetch_related(Prefetch("routed", routed.order_by("pk")))
        .order_by("-created_at", "-id")
    )
    context = {
        "study": study,
        "person": person(study.patient, study.study_date),
        "images": [one for one in series if one.origin == Origin.ACQUIRED],
        "modalities": sorted({one.modality for one in series if one.origin == Origin.ACQUIRED} - {"SEG", "SR", ""}),
        "made": [one for one in series if one.origin != Origin.ACQUIRED],
        "annotations": [one for one in series if one.origin in (Origin.ANNOTATION, Origin.REFERENCE)],
        "results": results,
        "findings": [finding for one in series for finding in one.quality_findings.all()],
        "events": history.of_patient(user, study.patient),
        "cohorts": history.cohorts_of(user, study),
        "may_run": may(user, Action.RUN, study.project),
        "may_curate": may(user, Action.CURATE, study.project),
        "may_send": may(user, Action.IMPORT, study.project),
        "may_manage": may(user, Action.MANAGE, study.project),
    }
    return render(request, "worklist/study.html", context)


@require_safe
def patient(request: HttpRequest, pk: int) -> HttpResponse:
    user = request.user
    patient = get_object_or_404(Patient.objects.visible_to(user).select_related("project"), pk=pk)
    visible = Study.objects.visible_to(user).filter(patient=patient).select_related("patient", "project")
    rows = build(visible.order_by(*filters.SORTS["-acquired"])[:200], user)
    context = {
        "patient": patient,
        "person": person(patient, timezone.localdate()),
        "rows": rows,
        "events": history.of_patient(user, patient),
    }
    return render(request, "worklist/patient.html", context)
