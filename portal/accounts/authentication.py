"""`Authorization: Token …` and `Bearer …` for the REST API; one look-up shared with DICOMweb."""

from __future__ import annotations

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed

from portal.accounts.models import ApiToken, User


def user_of_token(secret: str) -> User | None:
    """The active user behind a token, or None where it is unknown, expired or its user was deactivated."""
    token = ApiToken.objects.select_related("user").filter(digest=ApiToken.digest_of(secret)).first()
    if token is None or token.expired or not token.user.is_active:
        return None
    now = timezone.now()
    if token.last_used_at is None or (now - token.last_used_at).total_seconds() > 60:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token.user


class TokenAuthentication(BaseAuthentication):
    def authenticate(self, request):
        words = get_authorization_header(request).decode("latin-1").split()
        if len(words) != 2 or words[0].lower() not in ("token", "bearer"):
            return None
        user = user_of_token(words[1])
        if user is None:
            raise AuthenticationFailed("This token is unknown, expired or revoked. Make a new one in your profile.")
        return user, None

    def authenticate_header(self, request) -> str:
        return "Token"
