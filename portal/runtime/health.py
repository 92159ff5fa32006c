"""Is the portal ready? Database, broker, a worker for every queue and the DICOM listener, each by name."""

import logging

import redis
from django.conf import settings
from django.db import DatabaseError, connection

from portal.runtime.liveness import LISTENER, workers_alive

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
    names = {queue: f"worker {queue}" for queue in settings.QUEUES}
    if settings.DIMSE_PORT or settings.DIMSE_TLS_PORT:
        names[LISTENER] = "DICOM listener"
    try:
        alive = workers_alive(list(names))
    except redis.RedisError as error:
        logger.warning("the broker does not answer", extra={"error": type(error).__name__})
        return {"broker": FAILED, **dict.fromkeys(names.values(), FAILED)}
    return {"broker": OK, **{name: OK if alive[key] else FAILED for key, name in names.items()}}
