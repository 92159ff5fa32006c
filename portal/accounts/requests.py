"""The type of a request behind the sign-in."""

from __future__ import annotations

from django.http import HttpRequest

from portal.accounts.models import User


class SignedIn(HttpRequest):
    """A request whose user is known: every page but the sign-in (see LoginRequiredMiddleware)."""

    user: User
