"""Make an API token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from portal.accounts.models import User
from portal.accounts.services import issue_token


class Command(BaseCommand):
    help = "Print a new API token of a user, for `Authorization: Token …`. It cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", metavar="USER")
        parser.add_argument("--name", default="", help="what it is for")
        parser.add_argument("--days", type=int, help="days until it expires; without it, it does not")

    def handle(self, *, user: str, name: str, days: int | None, **_: Any) -> None:
        owner = User.objects.filter(username=user).first()
        if owner is None:
            raise CommandError(f"There is no user “{user}”.")
        if not owner.is_active:
            raise CommandError(f"The user “{user}” is deactivated.")
        if days is not None and days <= 0:
            raise CommandError("--days must be at least 1.")
        expires_at = timezone.now() + timedelta(days=days) if days else None
        self.stdout.write(issue_token(user=owner, name=name[:80], expires_at=expires_at))
