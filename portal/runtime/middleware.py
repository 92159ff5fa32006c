"""One log line for each request, and a request id that ties the lines of a request together."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse

from portal.runtime.logs import log_context

logger = logging.getLogger("portal.request")
_given_id = re.compile(r"[A-Za-z0-9._-]{8,64}")
QUIET = {"/healthz", "/readyz"}


class RequestLog:
    """Logs method, path, status, milliseconds and user id. Never the query string: it may hold a PatientID."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = _request_id(request.META)
        started = time.perf_counter()
        with log_context(request_id=request_id):
            response = self.get_response(request)
            response.headers["X-Request-ID"] = request_id
            if request.path not in QUIET:
                _log(request.method, request.path, response.status_code, started, _user_id(request))
        return response


def record(environ: Mapping[str, Any], status: int, started: float, user_id: int | None) -> tuple[str, str]:
    """The line of a request that was answered before it became a Django request; returns the header with its id."""
    request_id = _request_id(environ)
    with log_context(request_id=request_id):
        _log(environ["REQUEST_METHOD"], environ["PATH_INFO"], status, started, user_id)
    return "X-Request-ID", request_id


def _request_id(environ: Mapping[str, Any]) -> str:
    given = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _given_id.fullmatch(given) else uuid.uuid4().hex[:16]


def _log(method: str | None, path: str, status: int, started: float, user_id: int | None) -> None:
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    logger.info(
        "request",
        extra={"method": method, "path": path, "status": status, "ms": milliseconds, "user_id": user_id},
    )


def _user_id(request: HttpRequest) -> int | None:
    """The user's number if the request has already found out who it is; a static file costs no query."""
    user = getattr(request, "_cached_user", None) or getattr(request, "token_user", None)
    return getattr(user, "pk", None)
