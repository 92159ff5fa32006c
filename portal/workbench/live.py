"""Pages that follow something while it changes: polled with an ETag, so that most answers are an empty 304."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified, JsonResponse


def stamp(*state: Any) -> str:
    """An ETag of everything that the page shows."""
    return f'"{hashlib.sha256(repr(state).encode()).hexdigest()[:24]}"'


def answer(request: HttpRequest, etag: str, build: Callable[[], dict[str, Any]]) -> HttpResponse:
    """304 where the browser has this state already, else what `build` returns as JSON."""
    asked = request.headers.get("If-None-Match", "").removeprefix("W/")
    response: HttpResponse = HttpResponseNotModified() if asked == etag else JsonResponse(build())
    response["ETag"] = etag
    response["Cache-Control"] = "no-store"
    return response
