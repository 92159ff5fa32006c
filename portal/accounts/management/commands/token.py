"""Make an API token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from portal.accounts.errors import AccountError
from portal.accounts.models import ApiToken, Project, User
from portal.accounts.services import issue_token


class Command(BaseCommand):
    help = "Print a new API token of a user, for `Authorization: Token …`. It cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", metavar="USER")
        parser.add_argument("--name", default="", help="what it is for")
        parser.add_argument("--days", type=int, help="days until it expires; without it, it does not")
        parser.add_argument(
            "--scope", choices=ApiToken.Scope.values, default=ApiToken.Scope.FULL, help="what it may do"
        )
        parser.add_argument("--project", metavar="SLUG", help="the only project that it reaches")

    def handle(self, *, user: str, name: str, days: int | None, scope: str, project: str | None, **_: Any) -> None:
        owner = User.objects.filter(username=user).first()
        if owner is None:
            raise CommandError(f"There is no user “{user}”.")
        if not owner.is_active:
            raise CommandError(f"The user “{user}” is deactivated.")
        if days is not None and days <= 0:
            raise CommandError("--days must be at least 1.")
        expires_at = timezone.now() + timedelta(days=days) if days else None
        only = Project.objects.filter(slug=project).first() if project else None
        if project and only is None:
            raise CommandError(f"There is no project “{project}”.")
        try:
            secret = issue_token(user=owner, name=name[:80], expires_at=expires_at, scope=scope, project=only)
        except AccountError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(secret)
