"""Pages of campaigns and the reader's own list."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Exists, OuterRef, Q
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from portal.accounts.current import current_project
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may, projects_where
from portal.annotation import access, agreement, campaigns, consensus, design, export, progress, states
from portal.annotation.access import SignedIn
from portal.annotation.errors import AnnotationError, CampaignError
from portal.annotation.forms import CampaignForm, ConsensusForm, Row, possible_readers
from portal.annotation.models import Campaign, CampaignReader, Consensus, Question, Task
from studies.cohorts.models import Cohort

STEPS = {
    "start": campaigns.start,
    "pause": campaigns.pause,
    "resume": campaigns.resume,
    "close": campaigns.close,
}
DONE = {
    "start": "The campaign has started; its readers see their cases now.",
    "pause": "The campaign is paused.",
    "resume": "The campaign goes on.",
    "close": "The campaign is closed.",
}
PAGE = 100


@require_GET
def campaign_list(request: SignedIn) -> HttpResponse:
    found = access.campaigns(request.user)
    project = current_project(request)
    if project is not None:
        found = found.filter(project=project)
    in_force = ~Q(tasks__state=Task.State.WITHDRAWN) & Q(tasks__isnull=False)
    found = found.annotate(
        cases=Count("cohort__cases", distinct=True),
        n_readers=Count("readers", distinct=True),
        total=Count("tasks", filter=in_force, distinct=True),
        submitted=Count("tasks", filter=Q(tasks__state=Task.State.SUBMITTED), distinct=True),
        own=Exists(CampaignReader.objects.filter(campaign=OuterRef("pk"), user=request.user)),
    ).order_by("-id")[:PAGE]
    creatable = projects_where(request.user, Action.MANAGE)
    if project is not None:
        creatable = creatable.filter(pk=project.pk)
    context = {"campaigns": found, "may_create": creatable.exists(), "project": project}
    return render(request, "annotation/campaigns.html", context)


@require_http_methods(["GET", "POST"])
def campaign_create(request: SignedIn) -> HttpResponse:
    managed = projects_where(request.user, Action.MANAGE).order_by("name")
    wanted = request.POST.get("project") or request.GET.get("project")
    current = current_project(request)
    if wanted:
        visible = get_object_or_404(Project.objects.visible_to(request.user), slug=wanted)
        project = managed.filter(pk=visible.pk).first()
    elif current is not None:
        project = managed.filter(pk=current.pk).first()
    else:
        project = managed.first()
    if project is None:
        raise PermissionDenied("Only managers of a project make campaigns in it.")
    posted = request.POST if request.method == "POST" else None
    initial = {"cohort": request.GET.get("cohort"), "overlap": 2, "blinded": True}
    form = CampaignForm(posted, project=project, user=request.user, initial=initial)
    status = 200
    if posted is not None:
        growing = "add" in posted or "remove" in posted
        if not growing and form.is_valid():
            try:
                campaign = form.create(by=request.user)
                if "start" in posted:
                    campaigns.start(campaign, by=request.user)
                    messages.success(request, DONE["start"])
                else:
                    messages.success(request, "Saved as draft. Nobody is asked to read before you start it.")
                return redirect("campaign", pk=campaign.pk)
            except AnnotationError as error:
                form.add_error(None, str(error))
        status = 200 if growing else 422
        if growing:
            form.errors.clear()
            for row in [*form.questions, *form.segments]:
                row.errors.clear()
    context = {
        "form": form,
        "project": project,
        "projects": list(managed),
        "cohort_cases": {
            cohort.pk: cohort.n
            for cohort in Cohort.objects.visible_to(request.user).filter(project=project).annotate(n=Count("cases"))
        },
        "open_cases": open_cases(project),
        "kinds": Question.Kind.choices,
        "lines": "\n",
        "empty_row": Row(1),
        "known_structures": design.known_structures(project),
        "chosen_readers": [str(pk) for pk in (posted.getlist("readers") if posted else [])],
    }
    return render(request, "annotation/new_campaign.html", context, status=status)


def open_cases(project) -> dict[int, int]:
    """How many cases wait for each possible reader of a project."""
    rows = (
        Task.objects.filter(
            campaign__state=Campaign.State.READING,
            campaign__project=project,
            state__in=[Task.State.OPEN, Task.State.STARTED, Task.State.SKIPPED],
        )
        .order_by()
        .values_list("reader")
        .annotate(n=Count("pk"))
    )
    return dict(rows)


@require_GET
def campaign(request: SignedIn, pk: int) -> HttpResponse:
    found = access.campaign_of(request, pk)
    return render(request, "annotation/campaign.html", campaign_context(request, found))


def campaign_context(request: SignedIn, found: Campaign) -> dict[str, Any]:
    user = request.user
    manages, results = access.manages(user, found), access.sees_results(user, found)
    everyone = access.sees_everyone(user, found)
    context: dict[str, Any] = {
        "campaign": found,
        "manages": manages,
        "steps": states.steps_of(found) if manages else [],
        "everyone": everyone,
        "results": results,
        "reads_here": access.reads_in(user, found),
        "progress": progress.of_campaign(found, only=None if everyone else user),
        "questions": found.questions.all(),
        "segments": found.segment_labels.all(),
    }
    if results:
        report = agreement.report(found)
        context |= consensus_context(request, found)
        context |= {
            "report": report,
            "item": report.item(request.GET.get("show")),
            "flags": found.tasks.exclude(flag="").select_related("case", "reader").order_by("case__name")[:50],
            "disagreements": with_images(found, report.disagreements[:12]),
        }
    if manages:
        taken = set(found.readers.values_list("user_id", flat=True))
        context["candidates"] = [user for user in possible_readers(found.project) if user.pk not in taken]
    return context


def consensus_context(request: SignedIn, found: Campaign) -> dict[str, Any]:
    """What the card of the consensus shows: which cases would be in it, the job at work, what was published."""
    manages = access.manages(request.user, found)
    plans = consensus.plan(found)
    published = Consensus.objects.filter(campaign=found).select_related("reference", "created_by")
    return {
        "campaign": found,
        "manages": manages,
        "steps": states.steps_of(found) if manages else [],
        "segments": found.segment_labels.all(),
        "plans": plans,
        "has_reads": any(planned.reads for planned in plans),
        "ready": sum(not planned.reason for planned in plans),
        "left_out": [planned for planned in plans if planned.reason],
        "to_decide": [planned for planned in plans if planned.tied],
        "consensus_job": consensus.latest_job(found, request.user),
        "consensuses": published.annotate(n=Count("reference__case_labels")).order_by("-id"),
        "may_run": may(request.user, Action.RUN, found.project),
        "consensus_form": ConsensusForm(
            initial={"name": f"{found.name} consensus"[:80], "minimum_reads": found.overlap, "method": "majority"}
        ),
    }


def with_images(found: Campaign, disagreements: list) -> list[dict[str, Any]]:
    cases = {case.pk: case for case in found.cohort.cases.filter(pk__in=[item.case for item in disagreements])}
    return [{"item": item, "case": cases[item.case]} for item in disagreements if item.case in cases]


@require_GET
def campaign_agreement(request: SignedIn, pk: int) -> HttpResponse:
    """The heat map alone, of the question or segment that `show` names."""
    found = access.campaign_of(request, pk)
    if not access.sees_results(request.user, found):
        raise PermissionDenied("Agreement is shown to those who do not read in the campaign.")
    report = agreement.report(found)
    context = {"campaign": found, "report": report, "item": report.item(request.GET.get("show"))}
    return render(request, "annotation/includes/agreement.html", context)


@require_POST
def campaign_step(request: SignedIn, pk: int, step: str) -> HttpResponse:
    found = access.steered(request, pk)
    if step == "discard":
        return _told(request, found, lambda: campaigns.discard(found, by=request.user), "Draft discarded.", "campaigns")
    if step not in STEPS:
        raise Http404("no such step")
    return _told(request, found, lambda: STEPS[step](found, by=request.user), DONE[step])


@require_POST
def campaign_readers(request: SignedIn, pk: int) -> HttpResponse:
    """Add or remove a reader, or give open cases to others."""
    found = access.steered(request, pk)
    action = request.POST.get("action")
    reader = (
        User.objects.filter(pk=request.POST["reader"]).first() if request.POST.get("reader", "").isdigit() else None
    )
    if action not in ("add", "remove", "reassign"):
        raise Http404("no such action")

    def act() -> str:
        if action == "reassign":
            assigned = campaigns.reassign_open(found, by=request.user, reader=reader)
            return f"{assigned} cases assigned to readers with the least to do."
        if reader is None:
            raise CampaignError("No reader is chosen.", "Choose one.")
        if action == "add":
            assigned = campaigns.add_reader(found, reader, by=request.user)
            return f"{reader} reads now; {assigned} cases assigned."
        withdrawn = campaigns.remove_reader(found, reader, by=request.user)
        return f"{reader} left. Submitted reads are kept; {withdrawn} open cases were taken back."

    return _told(request, found, act)


@require_http_methods(["GET", "POST"])
def campaign_consensus(request: SignedIn, pk: int) -> HttpResponse:
    """GET: the card alone, for the page that waits for a consensus. POST: publish one."""
    if request.method == "GET":
        found = access.campaign_of(request, pk)
        if not access.sees_results(request.user, found):
            raise PermissionDenied("The consensus is shown to those who do not read in the campaign.")
        return render(request, "annotation/includes/consensus.html", consensus_context(request, found))
    found = access.steered(request, pk)
    form = ConsensusForm(request.POST)
    if not form.is_valid():
        context = campaign_context(request, found) | {"consensus_form": form}
        return render(request, "annotation/campaign.html", context, status=422)

    def act() -> str:
        consensus.request(found, by=request.user, **form.cleaned_data)
        return "The consensus is being made; the reference standard appears here when it is done."

    return _told(request, found, act)


@require_GET
def campaign_export(request: SignedIn, pk: int, extension: str) -> HttpResponse:
    found = access.campaign_of(request, pk)
    if not access.sees_results(request.user, found):
        raise PermissionDenied("Reads are exported by those who do not read in the campaign, or after it is closed.")
    if extension == "json":
        response: HttpResponse = JsonResponse(export.as_json(found), json_dumps_params={"indent": 2})
    else:
        response = HttpResponse(export.as_csv(found), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{export.file_name(found, extension)}"'
    return response


@require_http_methods(["GET", "POST"])
def campaign_case(request: SignedIn, pk: int, case: int) -> HttpResponse:
    """Every reader's answers to one case side by side, and the manager's decision."""
    found = access.campaign_of(request, pk)
    if not access.sees_results(request.user, found):
        raise PermissionDenied("Other readers' answers open when the campaign is closed.")
    manages = access.manages(request.user, found)
    plans = consensus.plan(found)
    planned = next((one for one in plans if one.case.pk == case), None)
    if planned is None:
        raise Http404("no such case")
    order = [item.case for item in agreement.report(found).disagreements]
    order = [p.case.pk for p in plans if p.tied and p.case.pk not in order] + order
    problem: AnnotationError | None = None
    if request.method == "POST":
        if not manages:
            raise PermissionDenied("Only managers decide on cases.")
        answers = {
            key.removeprefix("answer-"): value
            for key, value in request.POST.items()
            if key.startswith("answer-") and value != ""
        }
        chosen = next((read for read in planned.reads if str(read.pk) == request.POST.get("read")), None)
        try:
            consensus.adjudicate(
                found,
                planned.case,
                by=request.user,
                reason=request.POST.get("reason", ""),
                answers=answers,
                read=chosen,
            )
            messages.success(request, f"{planned.case.name} is decided.")
            place = order.index(case) if case in order else -1
            after = order[place + 1] if place + 1 < len(order) else case
            return redirect("campaign_case", pk=pk, case=after)
        except AnnotationError as error:
            problem = error
    context = {
        "campaign": found,
        "planned": planned,
        "questions": [_answers_to(question, planned) for question in found.questions.all()],
        "manages": manages,
        "report": next((d for d in agreement.report(found).disagreements if d.case == case), None),
        "previous": order[order.index(case) - 1] if case in order and order.index(case) > 0 else None,
        "following": order[order.index(case) + 1] if case in order and order.index(case) + 1 < len(order) else None,
        "place": order.index(case) + 1 if case in order else None,
        "of": len(order),
        "problem": problem,
        "reason": request.POST.get("reason", ""),
        "segments": found.segment_labels.all(),
    }
    return render(request, "annotation/case.html", context, status=422 if problem else 200)


def _answers_to(question: Question, planned: consensus.CasePlan) -> dict[str, Any]:
    key = str(question.pk)
    given = [read.answers.get(key) for read in planned.reads]
    return {
        "question": question,
        "answers": given,
        "agreed": planned.answers.get(key),
        "values": sorted({value for value in given if value is not None}),
        "undecided": question in planned.undecided,
    }


@require_GET
def my_reading(request: SignedIn) -> HttpResponse:
    own = Q(tasks__reader=request.user) & ~Q(tasks__state=Task.State.WITHDRAWN)
    found = (
        access.campaigns(request.user)
        .filter(Q(readers__user=request.user) | Q(tasks__reader=request.user))
        .annotate(
            total=Count("tasks", filter=own, distinct=True),
            submitted=Count("tasks", filter=own & Q(tasks__state=Task.State.SUBMITTED), distinct=True),
            drafts=Count("tasks", filter=own & Q(tasks__state=Task.State.STARTED), distinct=True),
            skipped=Count("tasks", filter=own & Q(tasks__state=Task.State.SKIPPED), distinct=True),
        )
        .exclude(state=Campaign.State.DRAFT)
        .order_by("due_date", "id")
        .distinct()[:PAGE]
    )
    rows = list(found)
    context = {
        "now": [c for c in rows if c.state == Campaign.State.READING and c.submitted < c.total],
        "waiting": [c for c in rows if c.state == Campaign.State.PAUSED and c.submitted < c.total],
        "done": [c for c in rows if c.state == Campaign.State.CLOSED or c.submitted >= c.total],
    }
    return render(request, "annotation/my_reading.html", context)


def _told(request: SignedIn, found: Campaign, act, done: str = "", to: str = "campaign") -> HttpResponse:
    """Do it, and say on the next page how it went."""
    try:
        said = act()
        messages.success(request, done or str(said))
        return redirect(to) if to != "campaign" else redirect(to, pk=found.pk)
    except AnnotationError as error:
        messages.error(request, str(error))
        return redirect("campaign", pk=found.pk)
