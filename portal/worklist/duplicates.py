"""Pairs of images that look the same, side by side, for those who curate."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.current import current_project
from portal.accounts.permissions import Action, may, projects_where
from studies.duplicates import services
from studies.duplicates.models import Pair

PAGE_SIZE = 24


@require_safe
def duplicates(request: HttpRequest) -> HttpResponse:
    """`?state=dismissed` shows those that are settled, `?cohort=` those between members of a cohort."""
    curated = projects_where(request.user, Action.CURATE)
    if not curated.exists():
        raise PermissionDenied("Near-duplicates name patients; managers and engineers of a project see them.")
    pairs = Pair.objects.visible_to(request.user).filter(
        one__study__project__in=curated, other__study__project__in=curated
    )
    project = current_project(request)
    if project is not None:
        pairs = pairs.filter(one__study__project=project) | pairs.filter(other__study__project=project)
    cohort = request.GET.get("cohort", "")
    if cohort.isdecimal() and len(cohort) < 10:
        members = {"study__cases__cohort": int(cohort)}
        pairs = pairs.filter(**{f"one__{key}": value for key, value in members.items()})
        pairs = pairs.filter(**{f"other__{key}": value for key, value in members.items()})
    else:
        cohort = ""
    state = Pair.State.DISMISSED if request.GET.get("state") == Pair.State.DISMISSED else Pair.State.FOUND
    counts = {value: pairs.filter(state=value).count() for value in Pair.State.values}
    asked = request.GET.get("page", "1")
    pages = max(1, -(-counts[state] // PAGE_SIZE))
    page = min(int(asked) if asked.isdecimal() and len(asked) < 9 else 1, pages) or 1
    shown = (
        pairs.filter(state=state)
        .select_related("one__study__patient", "one__study__project", "other__study__patient", "other__study__project")
        .select_related("settled_by")
        .order_by("distance", "pk")[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    )
    context = {
        "pairs": shown,
        "state": state,
        "counts": counts,
        "found": counts[Pair.State.FOUND],
        "dismissed": counts[Pair.State.DISMISSED],
        "furthest": services.FURTHEST,
        "cohort": cohort,
        "newer": page - 1 if page > 1 else None,
        "older": page + 1 if page < pages else None,
    }
    return render(request, "worklist/duplicates.html", context)


@require_POST
def duplicate_settle(request: HttpRequest, pk: int) -> HttpResponse:
    """`same=no`: the two are not the same image; `same=yes` takes that back."""
    found = Pair.objects.visible_to(request.user).select_related("one__study__project", "other__study__project")
    pair = get_object_or_404(found, pk=pk)
    if not all(may(request.user, Action.CURATE, series.study.project) for series in (pair.one, pair.other)):
        raise PermissionDenied("Only those who curate the projects of both images settle this.")
    if request.POST.get("same") == "yes":
        services.restore(pair, by=request.user)
        messages.success(request, "The pair counts as near-duplicate again.")
    else:
        services.dismiss(pair, by=request.user)
        messages.success(request, "Noted: these are not the same image. They may lie on two sides of a new split.")
    return redirect(reverse("duplicates"))
