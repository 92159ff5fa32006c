"""Is the portal ready? Database, broker, and a worker for every queue, each by name."""

import logging

import redis
from django.conf import settings
from django.db import DatabaseError, connection

from portal.runtime.liveness import workers_alive

logger = logging.getLogger("portal.runtime")
OK, FAILED = "ok", "failed"


def checks() -> dict[str, str]:
    """Check → `ok` or `failed`. The reason goes to the log, not to whoever asks."""
    return {"database": _database(), **_broker_and_workers()}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        logger.warning("the database does not answer", extra={"error": type(error).__name__})
        return FAILED
    return OK


def _broker_and_workers() -> dict[str, str]:
    try:
        alive = workers_alive(settings.QUEUES)
    except redis.RedisError as error:
        logger.warning("the broker does not answer", extra={"error": type(error).__name__})
        return {"broker": FAILED, **{f"worker {queue}": FAILED for queue in settings.QUEUES}}
    return {"broker": OK, **{f"worker {queue}": OK if count else FAILED for queue, count in alive.items()}}
