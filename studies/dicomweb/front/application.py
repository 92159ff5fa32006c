"""The WSGI application around Django."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIRequest
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_resolver
from django.utils.cache import patch_vary_headers
from django.utils.module_loading import import_string

from portal.accounts.models import Project, User
from studies.dicomweb import addresses
from studies.dicomweb.front.frames import ADDRESS, Frames
from studies.dicomweb.front.identity import Identities
from studies.dicomweb.front.notices import Notices
from studies.dicomweb.front.remembered import Remembered
from studies.dicomweb.scope import projects_of, writable_projects

SECONDS = 2.0  # how long an identity or a permission is believed when no notice of a change arrives
PREFIX = "/dicomweb/"
URLS = "studies.dicomweb.urls"
_CONNECTION_CHECK_SECONDS = 5.0
_REQUEST_LOG = "portal.runtime.middleware.RequestLog"
# Middleware whose work an answer needs …
KEPT = frozenset(
    {
        _REQUEST_LOG,
        "django.middleware.security.SecurityMiddleware",
        "portal.frame.headers.SecurityHeaders",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    }
)
# … and middleware that does nothing to a read below /dicomweb/ by somebody who is known.
LEFT_OUT = frozenset(
    {
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django_htmx.middleware.HtmxMiddleware",
        "allauth.account.middleware.AccountMiddleware",
        "portal.accounts.second_factor.RequireSecondFactor",  # see front.identity
        "portal.accounts.audit.middleware.AuditTrail",  # see studies.dicomweb.reads
    }
)

Headers = list[tuple[str, str]]
Answer = tuple[str, Headers, Iterable[bytes]]
# (environ, status, start of the request, user's key) → a header with the request's id
Record = Callable[[dict[str, Any], int, float, "int | None"], tuple[str, str]]
logger = logging.getLogger(__name__)


class Front:
    """`application` is Django's; `record` logs a request that never became one of Django's."""

    def __init__(self, application: Callable[..., Any], *, record: Record, seconds: float = SECONDS) -> None:
        self.application = application
        self.record = record
        self.notices = Notices()
        self.identities = Identities(seconds)
        self.frames = Frames(seconds)
        unknown = set(settings.MIDDLEWARE) - KEPT - LEFT_OUT
        if unknown:
            logger.warning("DICOMweb is answered by Django alone: what %s does is not known", sorted(unknown))
        self._usable = not unknown and not settings.SESSION_SAVE_EVERY_REQUEST and not settings.DISALLOWED_USER_AGENTS
        self._resolver = get_resolver(URLS)
        self._view = self._chain(_view, log=True)
        self._probe = self._chain(_nothing, log=False)
        # A body that was read cannot be read again, so an error is answered here as Django would.
        viewed: Any = convert_exception_to_response(_view)
        self._store: Any = convert_exception_to_response(self._chain(viewed, log=True))
        self._projects: Remembered[dict[str, int]] = Remembered(2000, seconds)
        self._writable: Remembered[list[Project]] = Remembered(2000, seconds)
        self._origins: dict[tuple[Any, ...], tuple[str, Headers] | None] = {}
        self._checked = threading.local()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self.answer(environ)
        if answer is None:
            return self.application(environ, start_response)
        status, headers, body = answer
        start_response(status, headers)
        return body

    def answer(self, environ: dict[str, Any]) -> Answer | None:
        """Status line, headers and body; None where Django answers."""
        path = environ["PATH_INFO"]
        if not path.startswith(PREFIX) or environ.get("SCRIPT_NAME") or not self._usable:
            return None
        try:
            if environ["REQUEST_METHOD"] == "GET":
                return self._answer(environ, path)
            # With a cookie, a store must show that it is not forged; Django sees to that.
            if environ["REQUEST_METHOD"] == "POST" and environ.get("HTTP_AUTHORIZATION"):
                return self._stored(environ, path)
            return None
        except Exception as error:  # Django meets the same, and answers as it does
            logger.debug("left to Django: %s", type(error).__name__)
            return None

    def close(self) -> None:
        self.notices.close()

    def _answer(self, environ: dict[str, Any], path: str) -> Answer | None:
        started = time.perf_counter()
        self._refresh_connection(started)
        generation = self.notices.generation()
        frame = ADDRESS.match(path) if not environ.get("QUERY_STRING") else None
        if frame is not None and generation is not None:
            user = self.identities.of(environ, generation)
            origin = self._origin(environ)
            if user is None or origin is None:
                return None
            found = self.frames.answer(frame, user, generation, environ, origin[0])
            if found is not None:
                headers, body = found
                headers += origin[1]
                headers.append(("Vary", "Cookie"))
                headers.append(self.record(environ, 200, started, user.pk))
                return "200 OK", headers, [body]
        try:
            match = self._resolver.resolve("/" + path[len(PREFIX) :])
        except Resolver404:
            return None
        user = self.identities.of(environ, generation)
        if user is None:
            return None
        request: Any = _request(environ, user)
        request.dicomweb_projects = self._projects_of(user, generation)
        request.front_call = (match.func, match.kwargs)
        return _sent(self._view(request))

    def _projects_of(self, user: User, generation: int | None) -> dict[str, int]:
        key = (user.pk, user.only_project)
        known = self._projects.get(key, generation) if generation is not None else None
        if known is None:
            known = projects_of(user)
            if generation is not None:
                self._projects.put(key, generation, known)
        return known

    def _stored(self, environ: dict[str, Any], path: str) -> Answer | None:
        """A STOW-RS request. Nothing of the body is read before it is certain that the answer comes from here."""
        generation = self.notices.generation()
        if generation is None:
            return None
        self._refresh_connection(time.perf_counter(), generation)
        try:
            match = self._resolver.resolve("/" + path[len(PREFIX) :])
        except Resolver404:
            return None
        user = self.identities.of(environ, generation)
        if user is None:
            return None
        key = (user.pk, user.only_project)
        writable = self._writable.get(key, generation)
        if writable is None:
            writable = writable_projects(user)
            self._writable.put(key, generation, writable)
        request: Any = _request(environ, user)
        request.dicomweb_writable = writable
        request.front_call = (match.func, match.kwargs)
        return _sent(self._store(request))

    def _refresh_connection(self, now: float, generation: int | None = None) -> None:
        """What Django does with its connections at every request. A read that fails is left to Django; a store gives
        `generation`, which also changes when the server went away, because its body cannot be read twice."""
        seen = getattr(self._checked, "generation", None)
        if now >= getattr(self._checked, "until", 0.0) or (generation is not None and generation != seen):
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:  # only in tests
                    connection.close_if_unusable_or_obsolete()
            self._checked.until = now + _CONNECTION_CHECK_SECONDS
            self._checked.generation = generation if generation is not None else seen

    def _origin(self, environ: dict[str, Any]) -> tuple[str, Headers] | None:
        """The address of the server as the client knows it, and the headers that middleware adds to an answer."""
        get = environ.get
        key = (
            get("HTTP_HOST"),
            get("HTTP_X_FORWARDED_HOST"),
            get("HTTP_X_FORWARDED_PROTO"),
            get("wsgi.url_scheme"),
            get("SERVER_NAME"),
            get("SERVER_PORT"),
            "HTTP_X_FORWARDED_FOR" in environ,
            "HTTP_VIA" in environ,
            "HTTP_SEC_FETCH_MODE" in environ,
        )
        if key not in self._origins:
            if len(self._origins) >= 200:
                self._origins.clear()
            request = WSGIRequest(environ)
            response = self._probe(request)
            ours = {"Content-Type", "Content-Length", "Cache-Control"}
            headers = [(name, value) for name, value in response.items() if name not in ours]
            self._origins[key] = (addresses.root(request, ""), headers) if response.status_code == 200 else None
        return self._origins[key]

    def _chain(self, view: Callable[[Any], HttpResponseBase], *, log: bool) -> Callable[[Any], HttpResponseBase]:
        handler = view
        for name in reversed(settings.MIDDLEWARE):
            if name in KEPT and (log or name != _REQUEST_LOG):
                handler = import_string(name)(handler)
        return handler


def _request(environ: dict[str, Any], user: User) -> WSGIRequest:
    request = WSGIRequest(environ)
    request.dicomweb_user = request._cached_user = user  # type: ignore[attr-defined]
    return request


def _view(request: Any) -> HttpResponseBase:
    view, arguments = request.front_call
    response = view(request, **arguments)
    patch_vary_headers(response, ("Cookie",))  # as the session's middleware does
    return response


def _nothing(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(b"", content_type="application/octet-stream")
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _sent(response: Any) -> Answer:
    status = f"{response.status_code} {response.reason_phrase}"
    headers = list(response.items())
    if response.streaming:
        return status, headers, response
    return status, headers, [response.content]
