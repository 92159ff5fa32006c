"""Who is asking, by session cookie or token. Everything else (Basic, nobody, somebody unknown) is left to Django."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.http.cookie import parse_cookie
from django.utils import timezone

from portal.accounts import second_factor
from portal.accounts.authentication import user_of_token
from portal.accounts.models import User
from studies.dicomweb.front.remembered import Remembered


class _Request:
    """As much of a request as `django.contrib.auth.get_user` looks at."""

    def __init__(self, session: Any) -> None:
        self.session = session


class Identities:
    def __init__(self, seconds: float) -> None:
        self._known: Remembered[User] = Remembered(2000, seconds)
        self._session_store = import_module(settings.SESSION_ENGINE).SessionStore

    def of(self, environ: dict[str, Any], generation: int | None) -> User | None:
        header = environ.get("HTTP_AUTHORIZATION", "")
        if header:
            kind, _, secret = header.partition(" ")
            secret = secret.strip()
            if kind.lower() not in ("token", "bearer") or not secret:
                return None
        else:
            secret = parse_cookie(environ.get("HTTP_COOKIE", "")).get(settings.SESSION_COOKIE_NAME, "")
            if not secret:
                return None
        method = environ["REQUEST_METHOD"]
        key = (bool(header), method, hashlib.sha256(secret.encode("utf-8", "replace")).digest())
        if generation is not None:
            known = self._known.get(key, generation)
            if known is not None:
                ends = known.token_expires_at
                return known if ends is None or ends > timezone.now() else None
        user = user_of_token(secret, dicomweb=True, method=method) if header else self._user_of_session(secret)
        if user is not None and generation is not None:
            self._known.put(key, generation, user)
        return user

    def _user_of_session(self, key: str) -> User | None:
        session = self._session_store(key)
        user: Any = get_user(_Request(session))  # type: ignore[arg-type]
        if not user.is_authenticated or session.modified or second_factor.owed(user, session):
            return None
        return user
