"""What django-allauth asks of this portal: sign-in by OpenID Connect, and the second factor."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from portal.accounts.addresses import client_address
from portal.accounts.audit import trail
from portal.accounts.audit.models import Outcome
from portal.accounts.models import User

RECENT_SECONDS = 300


class AccountAdapter(DefaultAccountAdapter):
    """Nobody signs up by a form, and no mail is sent: administrators make accounts, or the OpenID provider does."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def add_message(self, *args: Any, **kwargs: Any) -> None:
        """Our pages say it themselves."""

    def send_notification_mail(self, *args: Any, **kwargs: Any) -> None:
        """Changes of the second factor are in the audit trail."""

    def get_client_ip(self, request: HttpRequest) -> str:
        return client_address(request.META) or "0.0.0.0"  # noqa: S104  # a key for counting, no address to listen at

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        messages.error(request, "This account is deactivated. Ask your administrator.")
        return redirect("login")

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Not straight after a sign-in with the password."""
        request = context.request
        known = get_authentication_records(request, request.user)
        recent = [one for one in known if one["method"] == "password" and time.time() - one["at"] < RECENT_SECONDS]
        return not recent


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Whoever the provider lets in gets an account, without any project."""
        return bool(settings.OIDC_ISSUER)

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Where the site says that both name the same people, an account of the same user name is taken over."""
        if sociallogin.is_existing or not settings.OIDC_MATCH_USERNAME or not sociallogin.user.username:
            return
        known = User.objects.filter(username=sociallogin.user.username).first()
        if known is not None:
            with transaction.atomic():
                sociallogin.connect(request, known)
                trail.record("user.connect", known, user=known)

    @transaction.atomic
    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        user: User = super().save_user(request, sociallogin, form)
        trail.record("user.create", user, user=user, by="oidc")
        return user

    def on_authentication_error(self, request: HttpRequest, provider: Any, error: Any = None, **_: Any) -> None:
        trail.record("login.failure", kind="oidc", outcome=Outcome.FAILED, reason="oidc")
        messages.error(request, "The sign-in service did not say who you are. Try again, or ask your administrator.")
        raise ImmediateHttpResponse(redirect("login"))


class SecondFactorAdapter(DefaultMFAAdapter):
    def get_totp_issuer(self) -> str:
        return f"Readroom {context.request.get_host()}"

    def get_totp_label(self, user: Any) -> str:
        return user.get_username()

    def encrypt(self, text: str) -> str:
        """Keys of authenticator apps are no use to whoever has the database and not the secret key."""
        return _cipher().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _cipher().decrypt(encrypted_text.encode()).decode()


def _cipher() -> Fernet:
    key = hashlib.sha256(b"second factor " + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))
