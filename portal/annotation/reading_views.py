"""The reading page and the calls that it makes. Only the task's own reader gets in; for all others it is not there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from portal.accounts.permissions import Action, may
from portal.annotation import reading, states, task_state
from portal.annotation.access import SignedIn
from portal.annotation.errors import AnnotationError, Incomplete, NotReadable, StaleDraft
from portal.annotation.models import Campaign, Task


def own_task(request: SignedIn, pk: int) -> Task:
    """The reader's own task. 404 for everybody else's, 403 where the reader lost the right to read."""
    task = get_object_or_404(
        Task.objects.visible_to(request.user)
        .filter(reader=request.user)
        .select_related("campaign__project", "case__study", "case__image", "reader"),
        pk=pk,
    )
    if not may(request.user, Action.READ, task.campaign.project):
        raise PermissionDenied("Your role in this project does not allow reading.")
    return task


def words(error: AnnotationError) -> dict[str, Any]:
    return {"error": str(error), "cause": error.cause, "next_step": error.next_step}


def _answers(view: Callable[..., dict[str, Any]]) -> Callable[..., HttpResponse]:
    """Answer with what the view returns, and with words and a status where it cannot be done."""

    @wraps(view)
    def wrapped(request: SignedIn, pk: int) -> HttpResponse:
        task = own_task(request, pk)
        try:
            return JsonResponse(view(request, task))
        except StaleDraft as error:
            newest = None
            if error.newest is not None:
                newest = task_state.draft_json(reading.read_back(error.newest), error.newest.active_seconds)
            return JsonResponse({**words(error), "draft": newest}, status=409)
        except NotReadable as error:
            return JsonResponse(words(error), status=409)
        except Incomplete as error:
            return JsonResponse({**words(error), "errors": error.errors}, status=422)
        except AnnotationError as error:
            return JsonResponse({**words(error), "errors": {"segmentation": error.cause}}, status=422)
        except _BadBody as error:
            return JsonResponse({"error": str(error)}, status=400)

    return never_cache(wrapped)


class _BadBody(Exception):
    pass


def _body(request: SignedIn) -> dict[str, Any]:
    try:
        body = json.loads(request.body or b"{}")
    except ValueError:
        raise _BadBody("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise _BadBody("The body is not a JSON object.")
    return body


def _whole(body: dict[str, Any], key: str, default: int | None = None) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise _BadBody(f"“{key}” must be a whole number of 0 or more.")
    return int(value)


def _uid(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key) or None
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9.]{1,64}", value)):
        raise _BadBody(f"“{key}” must be a DICOM UID.")
    return value


@require_GET
@never_cache
@ensure_csrf_cookie
def reading_task(request: SignedIn, pk: int) -> HttpResponse:
    task = own_task(request, pk)
    if not states.readable(task):
        try:
            states.require_readable(task)
        except NotReadable as error:
            return render(request, "annotation/not_readable.html", {"task": task, "problem": error}, status=409)
    reading.opened(task)
    return render(request, "annotation/reading.html", {"task": task, "campaign": task.campaign, "case": task.case})


@require_GET
@_answers
def reading_state(request: SignedIn, task: Task) -> dict[str, Any]:
    states.require_readable(task)
    return task_state.state(task)


@require_http_methods(["GET", "POST"])
@_answers
def reading_draft(request: SignedIn, task: Task) -> dict[str, Any]:
    """GET: the newest draft, read back. POST: save a draft on top of `base_version`."""
    if request.method == "GET":
        newest = reading.newest_draft(task)
        return {"draft": task_state.draft_json(reading.read_back(newest), task.active_seconds) if newest else None}
    body = _body(request)
    stored = reading.save_draft(
        task,
        base_version=_whole(body, "base_version", 0),
        answers=body.get("answers") or {},
        segmentation_sop_uid=_uid(body, "segmentation_sop_uid"),
        active_seconds=_whole(body, "active_seconds", 0),
    )
    return {
        "version": stored.record.version,
        "digest": stored.digest,
        "saved_at": stored.saved_at.isoformat(),
        "segmentation": task_state.draft_json(stored, task.active_seconds)["segmentation"],
    }


@require_POST
@_answers
def reading_submit(request: SignedIn, task: Task) -> dict[str, Any]:
    body = _body(request)
    stored = reading.submit(
        task, base_version=_whole(body, "base_version"), active_seconds=_whole(body, "active_seconds", 0)
    )
    return {"read_version": stored.record.version, "digest": stored.digest, "next_url": task_state.next_url(task)}


@require_POST
@_answers
def reading_skip(request: SignedIn, task: Task) -> dict[str, Any]:
    reading.skip(task)
    return {"next_url": task_state.next_url(task)}


@require_POST
@_answers
def reading_flag(request: SignedIn, task: Task) -> dict[str, Any]:
    task = reading.flag(task, str(_body(request).get("text") or ""))
    return {"flag": task.flag}


@require_GET
@never_cache
def reading_next(request: SignedIn, pk: int) -> HttpResponse:
    """To the reader's next open case; to the list of campaigns where all is read."""
    campaign = get_object_or_404(Campaign.objects.visible_to(request.user), pk=pk)
    own = Task.objects.visible_to(request.user).filter(campaign=campaign, reader=request.user)
    if not own.exists():
        return redirect("campaign", pk=campaign.pk)
    after = own.filter(pk=request.GET["after"]).first() if request.GET.get("after", "").isdigit() else None
    task = reading.next_task(campaign, request.user, after=after)
    if campaign.state != Campaign.State.READING or task is None:
        if task is None:
            messages.success(request, f"All your cases of “{campaign.name}” are read.")
        return redirect("my_reading")
    return redirect("reading_task", pk=task.pk)
