"""Rows of the audit trail about signing in and out."""

from __future__ import annotations

import logging
from typing import Any

from portal.accounts.audit import trail
from portal.accounts.models import User

logger = logging.getLogger(__name__)


def entered(sender: Any, *, request: Any, user: User, **_: Any) -> None:
    """Raises `NotRecorded`: nobody comes in unseen."""
    trail.record("login.success", user, user=user)


def left(sender: Any, *, request: Any, user: User | None, **_: Any) -> None:
    """Nobody is kept in because a row cannot be written."""
    if user is None:
        return
    try:
        trail.record("login.end", user, user=user)
    except trail.NotRecorded as error:
        logger.error("a sign-out could not be recorded", exc_info=error)


def factor_saved(sender: Any, *, instance: Any, created: bool, **_: Any) -> None:
    """In the transaction of the change. A second factor that is used is saved too, and says nothing new."""
    if created:
        trail.record("login.second_factor", kind="accounts.user", key=instance.user_id, kept=str(instance.type))


def factor_deleted(sender: Any, *, instance: Any, **_: Any) -> None:
    trail.record("login.second_factor", kind="accounts.user", key=instance.user_id, removed=str(instance.type))
