"""Who is asking: session cookie, `Token`, `Bearer` or `Basic` (with a password or a token)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth import authenticate
from django.http import Http404, HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.views.decorators.csrf import csrf_exempt

from portal.accounts import guard, second_factor
from portal.accounts.audit import trail
from portal.accounts.audit.models import Outcome
from portal.accounts.authentication import OutOfScope, user_of_token
from portal.accounts.models import User
from studies.dicomweb import reads
from studies.dicomweb.problems import Problem, answer
from studies.dicomweb.scope import Resolver, Scope

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PASSWORD_SECONDS = 60
_MAX_REMEMBERED = 1000
# Checking a password takes a tenth of a second by design; a client with Basic sends it with every frame.
_remembered: dict[str, tuple[float, int, str]] = {}


class _Csrf(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason


def user_of(request: HttpRequest) -> User:
    """The user of a request. Raises `Problem` 401 (nobody) or 403 (a forged request)."""
    known: User | None = getattr(request, "dicomweb_user", None)  # the front has asked already
    if known is not None:
        return known
    header = request.META.get("HTTP_AUTHORIZATION", "")
    if header:
        kind, _, value = header.partition(" ")
        user = None
        try:
            if kind.lower() in ("token", "bearer"):
                user = user_of_token(value.strip(), dicomweb=True, method=request.method or "")
            elif kind.lower() == "basic":
                user = _basic(request, value.strip())
        except OutOfScope as error:
            raise Problem(403, str(error)) from error
        if user is None:
            raise Problem(401, "The credentials are unknown, expired or revoked.")
        return user
    session_user: Any = request.user
    if not session_user.is_authenticated:
        raise Problem(401, "Sign in, or send `Authorization: Token …` (make one in your profile).")
    if second_factor.owed(session_user, request.session):
        raise Problem(403, second_factor.WORDS)
    if request.method not in SAFE:
        check = _Csrf(lambda _: HttpResponse())
        check.process_request(request)
        reason = check.process_view(request, user_of, (), {})  # type: ignore[arg-type]  # any callable that is not exempt
        if reason:
            raise Problem(403, f"{reason} Send the cookie's token as X-CSRFToken.")
    return session_user


def _basic(request: HttpRequest, value: str) -> User | None:
    try:
        username, _, secret = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user = user_of_token(secret, dicomweb=True, method=request.method or "")
    if user is not None:
        return user if user.get_username() == username else None
    key = hashlib.sha256(value.encode()).hexdigest()
    now = time.monotonic()
    remembered = _remembered.get(key)
    if remembered is not None and remembered[0] > now:
        found = User.objects.filter(pk=remembered[1], password=remembered[2], is_active=True).first()
        if found is not None and not second_factor.bars_password(found):
            return found
    checked: Any = authenticate(request, username=username, password=secret)
    if lock := getattr(request, "sign_in_lock", None):
        raise _locked(lock)
    if checked is not None and second_factor.bars_password(checked):
        raise Problem(401, "A password alone does not do here. Make a token in your profile and send it instead.")
    if checked is not None:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[key] = (now + _PASSWORD_SECONDS, checked.pk, checked.password)
    return checked


def _locked(lock: guard.Locked) -> Problem:
    return Problem(429, str(lock), {"Retry-After": str(lock.seconds)})


def endpoint(resolver: Resolver, methods: dict[str, Callable[..., HttpResponse]]) -> Callable[..., HttpResponse]:
    """A view: authenticate, resolve the scope, call `handler(request, scope, **uids)`, put problems into words."""

    def served(request: HttpRequest, user: User, handler: Callable[..., HttpResponse], kwargs: dict[str, Any]) -> Any:
        """The handler's answer, with its row in the audit trail."""
        uids = {name: kwargs.pop(name) for name in _UID_ARGUMENTS if name in kwargs}
        if any("\0" in text for name, values in request.GET.lists() for text in (name, *values)):
            raise Problem(400, "A parameter holds the character NUL, which no attribute can have.")
        try:
            scope: Scope = resolver(request, **kwargs)
        except Http404:
            root = next(iter(kwargs.values()), "")
            trail.record(
                "root.open", kind="dicomweb", key=root, outcome=Outcome.DENIED, seconds=trail.READ_SECONDS, user=user
            )
            raise Problem(404, "There is no such DICOMweb root.") from None
        study = uids.get("study") or request.GET.get("studyUID", "")
        try:
            response = handler(request, scope, **uids)
        except Problem as problem:
            if problem.status == 404 and study:
                reads.record_denied(request, scope, study)
            raise
        if request.method in SAFE:
            reads.record(request, scope, study)
        return response

    @csrf_exempt  # enforced in `user_of` for requests that live by the session cookie
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            handler = methods.get("GET" if request.method == "HEAD" else request.method or "")
            user = user_of(request)
            if handler is None:
                response = answer(Problem(405, f"{request.method} is not offered here."))
                response["Allow"] = ", ".join(methods)
                return response
            request.user = user
            with trail.occasion(request):
                response = served(request, user, handler, kwargs)
        except trail.NotRecorded:
            response = answer(Problem(503, "The audit trail cannot be written, so nothing is served."))
        except Problem as problem:
            response = answer(problem)
            if problem.status == 401:
                # A browser would answer a Basic challenge with a dialogue of its own.
                browser = "Sec-Fetch-Mode" in request.headers
                response["WWW-Authenticate"] = 'Token realm="Readroom"' if browser else 'Basic realm="Readroom"'
        response.setdefault("Cache-Control", "private, no-cache")
        response.setdefault("X-Content-Type-Options", "nosniff")
        return response

    view.login_required = False  # type: ignore[attr-defined]  # LoginRequiredMiddleware would redirect to a page
    return view


_UID_ARGUMENTS = ("study", "series", "instance", "frames", "path")
