"""Against guessed passwords: failures are counted for each account and for each address, and lock for a growing time.

A name is counted whether an account bears it or not, so that neither the answer nor its time tells which names exist.
Attempts are counted before the password is looked at, so that many at once are no way around it. What is refused while
a lock stands is not counted and makes it no longer.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.audit.models import Outcome
from portal.accounts.models import FailedSignIns, User

Kind = FailedSignIns.Kind
FORGET = timedelta(hours=12)  # since the last failure
FIRST_LOCK_SECONDS = 30
LONGEST_LOCK_SECONDS = 3600


class Locked(Exception):
    """Nobody is let in under this name, or from this address, until `seconds` have passed."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many failed attempts. Try again in {words(seconds)}, or ask an administrator.")
        self.seconds = seconds


def words(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"


def admit(username: str, address: str | None) -> None:
    """Count an attempt as failed until `succeeded` takes it back. Raises Locked."""
    newly: list[FailedSignIns] = []
    with transaction.atomic():
        now = timezone.now()
        rows = [_row(kind, key) for kind, key in _keys(username, address)]
        left = max((_seconds_left(row, now) for row in rows), default=0)
        if not left:
            for row in rows:
                _count(row, now)
                if row.locked_until is not None:
                    newly.append(row)
        else:
            _tell(username, "login.failure", Outcome.DENIED, "locked", window=60)
        for row in newly:
            _tell(username, "login.locked", Outcome.DENIED, str(row.kind), lock=_seconds_left(row, now) - 1)
    if left:
        raise Locked(left)


def failed(username: str, reason: str = "password") -> None:
    _tell(username, "login.failure", Outcome.FAILED, reason)


@transaction.atomic
def succeeded(username: str, address: str | None) -> None:
    """The password was right: the account's failures are forgotten, of the address this attempt only."""
    for kind, key in _keys(username, address):
        row = FailedSignIns.objects.select_for_update().filter(kind=kind, key=key).first()
        if row is None:
            continue
        row.failures -= 1
        if kind == Kind.ACCOUNT or row.failures <= 0:
            row.delete()
        else:
            if row.failures < _limit(kind):
                row.locked_until = None
            row.save(update_fields=["failures", "locked_until"])


def locked_accounts(users: list[User]) -> dict[int, datetime]:
    """User → when the lock ends; those that are not locked are left out."""
    by_key = {_name_key(user.get_username()): user.pk for user in users}
    rows = FailedSignIns.objects.filter(kind=Kind.ACCOUNT, key__in=by_key, locked_until__gt=timezone.now())
    return {by_key[row.key]: row.locked_until for row in rows if row.locked_until is not None}


def locked_addresses() -> list[FailedSignIns]:
    return list(
        FailedSignIns.objects.filter(kind=Kind.ADDRESS, locked_until__gt=timezone.now()).order_by("-locked_until")[:50]
    )


@transaction.atomic
def unlock(user: User) -> bool:
    """Forget the failures of an account. Answers whether there were any."""
    gone, _ = FailedSignIns.objects.filter(kind=Kind.ACCOUNT, key=_name_key(user.get_username())).delete()
    trail.record("login.unlock", user)
    return bool(gone)


@transaction.atomic
def unlock_address(address: str) -> bool:
    gone, _ = FailedSignIns.objects.filter(kind=Kind.ADDRESS, key=address).delete()
    trail.record("login.unlock", kind="address", key=address)
    return bool(gone)


def _keys(username: str, address: str | None) -> list[tuple[str, str]]:
    keys: list[tuple[str, str]] = [(Kind.ACCOUNT, _name_key(username))]
    return [*keys, (Kind.ADDRESS, address)] if address else keys


def _name_key(username: str) -> str:
    """What was typed as a name may be a password in the wrong field, so it is not kept as it is."""
    name = username.strip().casefold().encode("utf-8", "replace")
    return hmac.new(settings.SECRET_KEY.encode(), b"sign-in " + name, hashlib.sha256).hexdigest()


def _row(kind: str, key: str) -> FailedSignIns:
    FailedSignIns.objects.bulk_create([FailedSignIns(kind=kind, key=key)], ignore_conflicts=True)
    return FailedSignIns.objects.select_for_update().get(kind=kind, key=key)


def _seconds_left(row: FailedSignIns, now: datetime) -> int:
    if row.locked_until is None or row.locked_until <= now:
        return 0
    return int((row.locked_until - now).total_seconds()) + 1


def _limit(kind: str) -> int:
    return settings.SIGN_IN_FAILURES if kind == Kind.ACCOUNT else settings.SIGN_IN_FAILURES_ADDRESS


def _count(row: FailedSignIns, now: datetime) -> None:
    if row.last_at is not None and now - row.last_at > FORGET:
        row.failures = 0
    row.failures += 1
    row.last_at = now
    beyond = row.failures - _limit(row.kind)
    if beyond >= 0:
        seconds = min(FIRST_LOCK_SECONDS * 2 ** min(beyond, 20), LONGEST_LOCK_SECONDS)
        row.locked_until = now + timedelta(seconds=seconds)
    else:
        row.locked_until = None
    row.save(update_fields=["failures", "last_at", "locked_until"])


def _tell(
    username: str, action: str, outcome: Outcome, reason: str, *, window: int = 0, lock: int | None = None
) -> None:
    """The row names the account, or where there is none a code of what was typed."""
    user = User.objects.filter(username=username).first()
    kind, key = ("accounts.user", str(user.pk)) if user is not None else ("unknown", _name_key(username)[:12])
    detail = {} if lock is None else {"lock": lock}
    trail.record(action, kind=kind, key=key, user=None, outcome=outcome, seconds=window, reason=reason, **detail)  # type: ignore[arg-type]
