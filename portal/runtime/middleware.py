"""One log line for each request, and a request id that ties the lines of a request together."""

import logging
import re
import time
import uuid
from collections.abc import Callable

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
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _given_id.fullmatch(given) else uuid.uuid4().hex[:16]
        started = time.perf_counter()
        with log_context(request_id=request_id):
            response = self.get_response(request)
            response.headers["X-Request-ID"] = request_id
            if request.path not in QUIET:
                logger.info(
                    "request",
                    extra={
                        "method": request.method,
                        "path": request.path,
                        "status": response.status_code,
                        "ms": round((time.perf_counter() - started) * 1000, 1),
                        "user_id": _user_id(request),
                    },
                )
        return response


def _user_id(request: HttpRequest) -> int | None:
    """The user's number if the request has already found out who it is; a static file costs no query."""
    user = getattr(request, "_cached_user", None) or getattr(request, "token_user", None)
    return getattr(user, "pk", None)
