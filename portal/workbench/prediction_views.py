"""What a model said: about one image, and about all cases of a run."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from inference.explanation.settings import TASKS
from inference.jobs.models import Job
from inference.prediction import answers
from inference.prediction.models import Prediction
from portal.accounts.permissions import Action, may
from portal.workbench.kinds import about
from studies.models import Series

PAGE = 50


@require_GET
def prediction(request: HttpRequest, pk: int) -> HttpResponse:
    shown = Prediction.objects.visible_to(request.user).select_related(
        "version__model__project", "study", "image", "segmentation", "report", "job__created_by"
    )
    found = get_object_or_404(shown, pk=pk)
    series = Series.objects.visible_to(request.user).in_bulk([entry["series"] for entry in found.inputs])
    context = {
        "prediction": found,
        "version": found.version,
        "answer": answers.of(found),
        "maps": found.maps.select_related("series"),
        "inputs": [{**entry, "series": series.get(entry["series"])} for entry in found.inputs],
        "caution": answers.CAUTION,
        "explains": found.version.model.task in TASKS,
        "may_run": may(request.user, Action.RUN, found.version.model.project),
        "routed": found.routed.filter(current=True).select_related("rule", "node", "push_job").order_by("pk"),
        "may_send": may(request.user, Action.IMPORT, found.study.project),
    }
    return render(request, "workbench/prediction.html", context)


@require_GET
def job_results(request: HttpRequest, pk: int) -> HttpResponse:
    """Every case of a run: what the model said, or why it said nothing."""
    job = get_object_or_404(Job.objects.visible_to(request.user).select_related("project"), pk=pk)
    mine = Prediction.objects.visible_to(request.user).filter(job=job)
    page = Paginator(
        mine.select_related("version__model", "study", "image").prefetch_related("maps").order_by("pk"), PAGE
    ).get_page(request.GET.get("page"))
    for found in page:
        found.answer = answers.of(found)
    told = about(job)
    context = {
        "job": job,
        "page": page,
        "version": page[0].version if page else None,
        "failed": told.failed_cases,
        "already": job.result.get("already_there", 0),
        "caution": answers.CAUTION,
    }
    return render(request, "workbench/results.html", context)
