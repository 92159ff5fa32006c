"""Errors of DICOMweb as answers that say what to do."""

from __future__ import annotations

from django.http import HttpResponse, JsonResponse


class Problem(Exception):
    """An answer other than success, with a text for whoever wrote the client."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def answer(problem: Problem) -> HttpResponse:
    body = {"status": problem.status, "detail": problem.detail}
    response = JsonResponse(body, status=problem.status, content_type="application/json")
    for name, value in problem.headers.items():
        response[name] = value
    return response


def not_found(what: str) -> Problem:
    return Problem(404, f"There is no such {what} here.")
