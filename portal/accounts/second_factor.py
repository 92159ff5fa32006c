"""Who still owes a second factor, where an administrator asks for one (`SECOND_FACTOR=required`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect

from portal.accounts.audit import trail
from portal.accounts.models import User

OFF, OPTIONAL, REQUIRED = "off", "optional", "required"
WORDS = "Your site asks for a second factor. Sign in to the portal and set it up first."
# What somebody without it may still do.
OPEN = frozenset(
    {
        "logout", "theme", "account_reauthenticate", "mfa_activate_totp", "mfa_reauthenticate",
        "mfa_view_recovery_codes", "mfa_download_recovery_codes",
    }
)  # fmt: skip


def enabled_for(user: User) -> bool:
    """Signing in by password asks for a code."""
    return settings.SECOND_FACTOR != OFF and _has(user)


def owed(user: User, session: Any) -> bool:
    """The session may do nothing but set up the second factor. Who came by OpenID Connect is the provider's to ask."""
    if settings.SECOND_FACTOR != REQUIRED:
        return False
    methods = {one.get("method") for one in session.get(AUTHENTICATION_METHODS_SESSION_KEY) or []}
    return not methods & {"mfa", "socialaccount"} and not _has(user)


def bars_password(user: User) -> bool:
    """A password alone, as Basic sends it, does not do."""
    return settings.SECOND_FACTOR == REQUIRED or enabled_for(user)


def _has(user: User) -> bool:
    return Authenticator.objects.filter(user_id=user.pk, type=Authenticator.Type.TOTP).exists()


def shown(user: User) -> dict[str, Any] | None:
    """What the profile says; None where the site uses no second factor."""
    if settings.SECOND_FACTOR == OFF:
        return None
    codes = Authenticator.objects.filter(user_id=user.pk, type=Authenticator.Type.RECOVERY_CODES).first()
    left = len(codes.wrap().get_unused_codes()) if codes is not None else 0
    return {"on": _has(user), "codes": left, "required": settings.SECOND_FACTOR == REQUIRED}


def users_with_one() -> set[int]:
    return set(Authenticator.objects.filter(type=Authenticator.Type.TOTP).values_list("user_id", flat=True))


@transaction.atomic
def reset(user: User) -> bool:
    """Take the second factor off an account, for somebody who lost it. Answers whether there was one."""
    gone, _ = Authenticator.objects.filter(user_id=user.pk).delete()
    trail.record("login.reset_second_factor", user)
    return bool(gone)


class RequireSecondFactor:
    """Sends everybody who owes one to the page where it is set up. DICOMweb asks for itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, arguments: Any, keywords: Any) -> HttpResponse | None:
        match = request.resolver_match
        user: Any = request.user
        if match is None or match.url_name in OPEN or not user.is_authenticated or not owed(user, request.session):
            return None
        if request.path.startswith(("/api/", "/dicomweb/")):
            return JsonResponse({"detail": WORDS}, status=403)
        messages.warning(request, "Your site asks for a second factor. Set it up to go on.")
        return redirect("mfa_activate_totp")
