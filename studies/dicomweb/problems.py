"""Errors of DICOMweb as answers that say what to do."""

from __future__ import annotations

from django.http import HttpResponse, JsonResponse


class Problem(Exception):
    """An answer other than success, with a text for whoever wrote the client."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def answer(problem: Problem) -> HttpResponse:
    body = {"status": problem.status, "detail": problem.detail}
    return JsonResponse(body, status=problem.status, content_type="application/json")


def not_found(what: str) -> Problem:
    return Problem(404, f"There is no such {what} here.")
