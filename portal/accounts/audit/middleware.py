"""Every request of somebody who is known leaves its row before the answer leaves; without the row, no answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from portal.accounts.audit import rules, trail
from portal.accounts.audit.models import Outcome
from portal.accounts.audit.rules import Rule

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Writes its own rows (studies.dicomweb.access), because most of its answers never come by here.
ELSEWHERE = "/dicomweb/"
logger = logging.getLogger(__name__)


class AuditTrail:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with trail.occasion(request) as now:
            response = self.get_response(request)
            if not request.path.startswith(ELSEWHERE):
                try:
                    _follow(request, response, now)
                except trail.NotRecorded as error:
                    return self.process_exception(request, error) or response
            return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, trail.NotRecorded):
            return None
        logger.error("the audit trail cannot be written; the request was not served", exc_info=error)
        text = "The audit trail cannot be written, so nothing is shown or changed. Tell an administrator."
        if request.path.startswith(("/api/", ELSEWHERE)):
            return JsonResponse({"status": 503, "detail": text}, status=503)
        return render(request, "trail/not_recorded.html", {"text": text}, status=503)


def _follow(request: HttpRequest, response: HttpResponse, now: trail.Occasion) -> None:
    """The row of a request that has not written one itself."""
    user: Any = getattr(request, "user", None)
    match = request.resolver_match
    if match is None or user is None or not user.is_authenticated:
        return
    denied = response.status_code in (403, 404)
    if now.rows and not denied:
        return
    name = match.url_name or ""
    rule = _rule(name, request, response)
    if not rule.action or (response.status_code >= 400 and not denied):
        return
    found = rule.subject.found(request, match.kwargs, denied=denied) if rule.subject else None
    if denied and found is None and response.status_code == 404:
        return  # there is nothing of this name, so nothing was asked for
    seconds = rule.seconds or (trail.READ_SECONDS if denied else 0)  # who knocks all day fills no disk
    outcome = Outcome.DENIED if denied else Outcome.FAILED if rule.by_service else Outcome.SUCCESS
    values: dict[str, Any] = {"outcome": outcome, "seconds": seconds}
    if found is not None:
        trail.record(
            rule.action, kind=found.kind, key=found.key, project=found.project, patient=found.patient, **values
        )
    else:
        key = "/".join(str(value) for value in match.kwargs.values() if value is not None)[:64]
        trail.record(rule.action, kind=name[:40], key=key, **values)


def _rule(name: str, request: HttpRequest, response: HttpResponse) -> Rule:
    rule = rules.table().get(name)
    if rule is not None:
        return rule
    if request.method not in SAFE:
        return rules.CHANGED
    return rules.FETCHED if response.headers.get("Content-Disposition", "").startswith("attachment") else rules.SEEN
