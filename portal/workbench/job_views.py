"""The list of jobs and the live page of one."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from functools import partial
from typing import Any

import redis
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Max, Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_GET, require_POST

from inference.jobs import order, services
from inference.jobs.durations import duration
from inference.jobs.errors import IllegalTransition
from inference.jobs.models import Job, JobLogLine
from portal.accounts.current import current_project
from portal.accounts.models import Project
from portal.accounts.permissions import Action, may, projects_where
from portal.runtime import liveness
from portal.workbench import live, tuning
from portal.workbench.curves import curves
from portal.workbench.kinds import about, words_of

QUIET_FOR = 10  # seconds after which a job whose progress tells no time left says so
WORK_OF = {
    "default": "short tasks",
    "io": "imports, exports, transfers",
    "infer": "running and evaluating models",
    "train": "training",
}
ENDED = [Job.State.SUCCEEDED, Job.State.FAILED, Job.State.CANCELLED]
PRIORITIES = [(priority.value, priority.name.lower(), priority.label) for priority in reversed(Job.Priority)]
PAGE = 25
LONGEST_QUEUE = 200  # queued jobs on the page
TAIL = 200  # log lines on the page; the whole log is a download


@require_GET
def jobs(request: HttpRequest) -> HttpResponse:
    """`?state=`, `?kind=` and `?page=`; polled as JSON by live.js."""
    mine = Job.objects.visible_to(request.user).select_related("project", "created_by")
    if project := current_project(request):
        mine = mine.filter(project=project)
    if request.headers.get("X-Live"):
        seen = mine.exclude(state__in=ENDED).values_list(
            "id", "state", "priority", "progress", "progress_text", "cancel_requested"
        )
        moving, last = list(seen.order_by("id")), mine.aggregate(last=Max("finished_at"), count=Count("id"))
        return live.answer(
            request,
            live.stamp(request.GET.dict(), moving, last, int(timezone.now().timestamp()) // (5 if moving else 15)),
            lambda: {"parts": {"jobs": render_to_string("workbench/jobs_list.html", _list(request, mine), request)}},
        )
    return render(request, "workbench/jobs.html", _list(request, mine))


def _list(request: HttpRequest, mine: QuerySet[Job]) -> dict[str, Any]:
    state, kind = request.GET.get("state", ""), request.GET.get("kind", "")
    tasks = mine.order_by().values_list("task", flat=True).distinct()
    kinds = sorted({(words_of(task), task.rsplit(".", 1)[-1]) for task in tasks})
    counts = dict(mine.order_by().values_list("state").annotate(count=Count("id")))
    shown = mine.filter(task__endswith=f".{kind}") if kind else mine
    if state in Job.State.values:
        shown = shown.filter(state=state)
    ended = Paginator(shown.filter(state__in=ENDED).order_by("-finished_at", "-id"), PAGE).get_page(
        request.GET.get("page")
    )
    running = list(shown.filter(state=Job.State.RUNNING).order_by("started_at"))
    waiting = shown.filter(state=Job.State.QUEUED)
    places: dict[int, int] = {}
    for queue in waiting.order_by().values_list("queue", flat=True).distinct():
        places |= order.places(queue)
    queued = sorted(waiting, key=lambda job: (job.queue, places.get(job.pk, 0)))[:LONGEST_QUEUE]
    runs = set(projects_where(request.user, Action.RUN).values_list("pk", flat=True))
    for job in [*running, *queued, *ended]:
        job.words, job.may_run, job.place = words_of(job.task), job.project_id in runs, places.get(job.pk)
        job.left_words = left_words(job)
    query = request.GET.copy()
    query.pop("page", None)
    workers = _workers(request) if runs else []
    return {
        "workers": workers,
        "queues": _queues(workers) if runs else [],
        "waiting": len(queued) if len(queued) < LONGEST_QUEUE else waiting.count(),
        "priorities": PRIORITIES,
        "running": running,
        "queued": queued,
        "ended": ended,
        "states": [(value, label, counts.get(value, 0)) for value, label in Job.State.choices],
        "kinds": kinds,
        "state": state,
        "kind": kind,
        "filtered": bool(state or kind),
        "query": query.urlencode(),
        "may_train": bool(runs),
    }


def _workers(request: HttpRequest) -> list[dict[str, Any]]:
    """Workers with what they have and the jobs on them; a job of a project that the user does not see has no title."""
    try:
        found = liveness.workers()
    except redis.RedisError:
        return []
    running = Job.objects.filter(state=Job.State.RUNNING).values_list("pk", "worker", "title", "project_id")
    seen = set(Project.objects.visible_to(request.user).values_list("pk", flat=True))
    busy: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pk, where, title, project in running:
        known = project in seen
        busy[where.split(" pid ")[0]].append({"pk": pk if known else None, "title": title if known else ""})
    for worker in found:
        worker["jobs"] = busy[worker["name"]]
        worker["short"], _, _ = worker["name"].partition("@")
    return found


def _queues(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What waits and runs in every queue, of all projects, and how many workers it has."""
    counts = {
        row["queue"]: row
        for row in Job.objects.exclude(state__in=ENDED)
        .order_by()
        .values("queue")
        .annotate(
            waiting=Count("id", filter=Q(state=Job.State.QUEUED)),
            running=Count("id", filter=Q(state=Job.State.RUNNING)),
            oldest=Min("queued_at", filter=Q(state=Job.State.QUEUED)),
        )
    }
    found = []
    for queue in Job.Queue.values:
        row = counts.get(queue, {"waiting": 0, "running": 0, "oldest": None})
        oldest = row["oldest"] and (timezone.now() - row["oldest"]).total_seconds()
        serving = [worker for worker in workers if queue in worker["queues"]]
        found.append(
            {
                "name": queue,
                "for": WORK_OF[queue],
                "waiting": row["waiting"],
                "running": row["running"],
                "oldest": oldest,
                "workers": len(serving),
                "at_a_time": sum(worker["concurrency"] for worker in serving),
                "stands": bool(row["waiting"]) and not serving,
            }
        )
    return found


def left_words(job: Job) -> str:
    """About how long it takes still, and when it ends: an estimate from the progress so far."""
    if job.seconds_left is None:
        return "" if (job.seconds_running or 0) < QUIET_FOR else "time left not known yet"
    if job.seconds_left < 1:
        return "nearly done"
    ends = timezone.localtime(timezone.now() + timedelta(seconds=job.seconds_left))
    return f"about {duration(job.seconds_left)} left, ends about {ends:%H:%M}"


@require_GET
def job(request: HttpRequest, pk: int) -> HttpResponse:
    job = _visible(request, pk)
    if request.headers.get("X-Live"):
        return _live(request, job)
    context = _context(request, job)
    return render(request, "workbench/job.html", {**context, **_parts(request, context)})


def _parts(request: HttpRequest, context: dict[str, Any]) -> dict[str, str]:
    """The pieces of the page that change, by name."""
    names = ("state", "actions", "progress", "outcome", "steps", "setup")
    return {name: mark_safe(render_to_string(f"workbench/job_{name}.html", context, request).strip()) for name in names}  # noqa: S308


def _live(request: HttpRequest, job: Job) -> HttpResponse:
    """What changed since the page was drawn or polled: parts as HTML, curves as specifications, new log lines."""
    after = int(request.GET["log"]) if request.GET.get("log", "").isdigit() else 0
    last_metric = job.metrics.aggregate(last=Max("id"))["last"] or 0
    last_log = job.log.aggregate(last=Max("id"))["last"] or 0
    etag = live.stamp(
        job.state, job.progress, job.progress_text, job.cancel_requested, job.attempt, job.lease_until, last_metric,
        last_log, after,
    )  # fmt: skip

    def build() -> dict[str, Any]:
        context = _context(request, job)
        lines = job.log.filter(pk__gt=after)[:1000] if context["may_run"] else []
        return {
            "ended": job.ended,
            "title": f"{job.get_state_display()}: {job.title}",
            "parts": _parts(request, context),
            "curves": [
                {"key": curve.key, "title": curve.title, "note": curve.note, "label": curve.label, "spec": curve.spec}
                for curve in context["curves"]
            ],
            "log_count": context["log_count"],
            "log": [[line.pk, f"{timezone.localtime(line.at):%H:%M:%S}", line.level, line.text] for line in lines],
        }

    return live.answer(request, etag, build)


def _context(request: HttpRequest, job: Job) -> dict[str, Any]:
    told = about(job)
    may_run = may(request.user, Action.RUN, job.project)
    lines = job.log.count()
    events = list(job.log.filter(level="event").order_by("id")[:50])
    place = services.position(job) if job.state == Job.State.QUEUED else None
    sign_of_life = None
    if job.lease_until:
        sign_of_life = max((timezone.now() - (job.lease_until - services.lease())).total_seconds(), 0)
    return {
        "job": job,
        "words": words_of(job.task),
        "about": told,
        "curves": [*curves(job, validation_cases=told.validation_cases), *tuning.curves(job)],
        "may_run": may_run,
        "place": place,
        "sign_of_life": sign_of_life,
        "left_words": left_words(job),
        "priorities": PRIORITIES,
        "events": events,
        "attempts_allowed": job.max_attempts + job.attempts_before_retry,
        "log_count": lines,
        "log_tail": reversed(job.log.order_by("-id")[:TAIL]) if may_run else [],
        "log_last": job.log.aggregate(last=Max("id"))["last"] or 0,
    }


@require_GET
def job_log(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    job = _visible(request, pk, Action.RUN)
    lines = job.log.iterator(chunk_size=500)
    response = StreamingHttpResponse(map(_plain, lines), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="job-{job.pk}.log"'
    return response


def _plain(line: JobLogLine) -> str:
    return f"{timezone.localtime(line.at):%Y-%m-%d %H:%M:%S} attempt {line.attempt} {line.level}: {line.text}\n"


@require_POST
def job_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    return _change(request, pk, services.cancel)


@require_POST
def job_retry(request: HttpRequest, pk: int) -> HttpResponse:
    return _change(request, pk, services.retry)


@require_POST
def job_priority(request: HttpRequest, pk: int) -> HttpResponse:
    """`priority=` low, normal or urgent."""
    name = request.POST.get("priority", "").upper()
    if name not in Job.Priority.__members__:
        return HttpResponseBadRequest()
    return _change(request, pk, partial(services.prioritise, priority=Job.Priority[name]))


def _change(request: HttpRequest, pk: int, service) -> HttpResponse:
    job = _visible(request, pk, Action.RUN)
    try:
        job = service(job, by=request.user)
    except IllegalTransition as error:
        messages.warning(request, error.cause)
    else:
        words = "asked to stop" if job.cancel_requested else job.get_state_display().lower()
        if job.state == Job.State.QUEUED:
            words = f"queued with {job.get_priority_display().lower()} priority"
        messages.info(request, f"Job {job.pk} is {words}.")
    return redirect("jobs") if request.POST.get("next") == "jobs" else redirect("job", pk=pk)


def _visible(request: HttpRequest, pk: int, action: Action | None = None) -> Job:
    visible = Job.objects.visible_to(request.user).select_related(
        "project", "created_by", "training_run__reference__cohort", "training_run__version__model",
        "evaluation__reference__cohort", "evaluation__version__model",
    )  # fmt: skip
    job = get_object_or_404(visible, pk=pk)
    if action is not None and not may(request.user, action, job.project):
        raise PermissionDenied
    return job
