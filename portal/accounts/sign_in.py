"""The sign-in page, the code of the second factor, and the way by OpenID Connect; the steps are django-allauth's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.socialaccount.providers.openid_connect import views as openid_connect
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from requests import RequestException

from portal.accounts import guard
from portal.accounts.addresses import client_address
from portal.accounts.second_factor import OFF

logger = logging.getLogger(__name__)


class SignInForm(AuthenticationForm):
    def get_invalid_login_error(self) -> forms.ValidationError:
        lock = getattr(self.request, "sign_in_lock", None)
        return forms.ValidationError(str(lock), code="locked") if lock else super().get_invalid_login_error()


class SignIn(LoginView):
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        user = form.get_user()
        login = Login(user=user, redirect_url=self.get_success_url())
        return perform_password_login(self.request, {"username": user.get_username()}, login)

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_invalid(form)
        lock = getattr(self.request, "sign_in_lock", None)
        if lock is not None:
            response.status_code = 429
            response["Retry-After"] = str(lock.seconds)
        return response

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        return super().get_context_data(
            lock=getattr(self.request, "sign_in_lock", None),
            oidc_name=settings.OIDC_NAME if settings.OIDC_ISSUER else "",
            **more,
        )


class _Guarded:
    """Codes are counted like passwords, under a name of their own."""

    user: Any

    def clean_code(self) -> str:
        from allauth.core import context

        name, address = f"second factor of {self.user.get_username()}", client_address(context.request.META)
        try:
            guard.admit(name, address)
        except guard.Locked as lock:
            raise forms.ValidationError(str(lock), code="locked") from lock
        try:
            code: str = super().clean_code()  # type: ignore[misc]
        except forms.ValidationError:
            guard.failed(self.user.get_username(), reason="second_factor")
            raise
        guard.succeeded(name, address)
        return code


class CodeForm(_Guarded, AuthenticateForm):
    pass


class CodeAgainForm(_Guarded, ReauthenticateForm):
    pass


def where_used(view: Callable[..., Any]) -> Callable[..., Any]:
    """The pages of the second factor exist where it is switched on."""

    def shown(request: HttpRequest, *arguments: Any, **keywords: Any) -> Any:
        if settings.SECOND_FACTOR == OFF:
            raise Http404("no second factor here")
        return view(request, *arguments, **keywords)

    shown.login_required = getattr(view, "login_required", True)  # type: ignore[attr-defined]
    return shown


@login_not_required
def oidc(request: HttpRequest, provider_id: str) -> Any:
    """Away to the provider. Only to sign in: linking somebody else's identity to an account is not offered."""
    if not settings.OIDC_ISSUER or request.GET.get("process", "login") != "login":
        raise Http404("no such way in")
    return _asked(request, openid_connect.login, provider_id)


@login_not_required
def oidc_back(request: HttpRequest, provider_id: str) -> Any:
    if not settings.OIDC_ISSUER:
        raise Http404("no such way in")
    return _asked(request, openid_connect.callback, provider_id)


def _asked(request: HttpRequest, view: Callable[..., Any], provider_id: str) -> Any:
    """A provider that does not answer, or nonsense, is said on the sign-in page."""
    try:
        return view(request, provider_id)
    except (RequestException, ValueError, KeyError) as error:
        logger.error("the OpenID provider did not answer as it should", exc_info=error)
        messages.error(request, "The sign-in service cannot be reached. Try again later, or use a password.")
        return redirect("login")


def to_profile(request: HttpRequest) -> HttpResponse:
    """Where the library goes on to after a change of the second factor."""
    response = redirect("profile")
    response["Location"] += "#second-factor"
    return response
