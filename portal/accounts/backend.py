"""Sign-in by user name and password, for the page and for Basic: Django's own, behind the guard."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from portal.accounts import guard
from portal.accounts.addresses import client_address


class GuardedBackend(ModelBackend):
    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> Any:
        """The user, or None. While a lock stands, `request.sign_in_lock` says in words how long it does."""
        if username is None or password is None:
            return None
        address = client_address(request.META) if request is not None else None
        try:
            guard.admit(username, address)
        except guard.Locked as lock:
            if request is not None:
                request.sign_in_lock = lock  # type: ignore[attr-defined]
            raise PermissionDenied(str(lock)) from lock
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is None:
            guard.failed(username)
        else:
            guard.succeeded(username, address)
        return user
