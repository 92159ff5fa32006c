"""Let somebody sign in again who was locked out after failed attempts."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts import guard
from portal.accounts.models import User
from portal.accounts.second_factor import reset


class Command(BaseCommand):
    help = "Forget the failed sign-ins of a user, or of an address."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("who", metavar="USER|ADDRESS")
        parser.add_argument("--second-factor", action="store_true", help="take the second factor off as well")

    def handle(self, *, who: str, second_factor: bool, **_: Any) -> None:
        user = User.objects.filter(username=who).first()
        if user is not None:
            guard.unlock(user)
            if second_factor:
                reset(user)
            self.stdout.write(f"{who} may sign in again.")
            return
        try:
            address = str(ipaddress.ip_address(who))
        except ValueError:
            raise CommandError(f"There is no user “{who}”, and it is no address.") from None
        guard.unlock_address(address)
        self.stdout.write(f"Sign-ins from {address} are possible again.")
