"""`Authorization: Token …` and `Bearer …` for the REST API; one look-up shared with DICOMweb."""

from __future__ import annotations

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied

from portal.accounts.models import ApiToken, User

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class OutOfScope(Exception):
    """The token is good, and does not reach as far as the request; words for whoever made the token."""


def user_of_token(secret: str, *, dicomweb: bool = False, method: str = "GET") -> User | None:
    """The active user behind a token, narrowed to the token's project; `token_id` and `only_project` say so.

    None where the token is unknown, expired or its user was deactivated. Raises OutOfScope.
    """
    token = ApiToken.objects.select_related("user").filter(digest=ApiToken.digest_of(secret)).first()
    if token is None or token.expired or not token.user.is_active:
        return None
    if not token.allows(dicomweb=dicomweb, writing=method not in SAFE):
        raise OutOfScope(f"This token is limited: {token.get_scope_display()}. Make another one in your profile.")
    now = timezone.now()
    if token.last_used_at is None or (now - token.last_used_at).total_seconds() > 60:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    user = token.user
    user.token_id, user.only_project, user.token_expires_at = token.pk, token.project_id, token.expires_at
    return user


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request):
        words = get_authorization_header(request).decode("latin-1").split()
        if len(words) != 2 or words[0].lower() not in ("token", "bearer"):
            return None
        try:
            user = user_of_token(words[1], method=request.method)
        except OutOfScope as error:
            raise PermissionDenied(str(error)) from error
        if user is None:
            raise AuthenticationFailed("This token is unknown, expired or revoked. Make a new one in your profile.")
        return user, None

    def authenticate_header(self, request) -> str:
        return "Token"
