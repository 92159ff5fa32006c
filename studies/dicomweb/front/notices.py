"""What the database says about changes of access (migrations `access_notices`), heard in every process.

Triggers send a notice with the commit of whatever may take somebody's access away. Asking for what has arrived costs a
system call. A notice is on its way for a millisecond or so; should one be lost, what was remembered ends by its age.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import psycopg
from django.db import connections

CHANNEL = "readroom_access"
_RETRY_SECONDS = 1.0
logger = logging.getLogger(__name__)


class Notices:
    """`generation()` counts changes; None while nobody listens, and then nothing may be remembered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        self._generation = 0
        self._retry_at = 0.0

    def generation(self) -> int | None:
        with self._lock:
            if self._connection is None and not self._listen():
                return None
            assert self._connection is not None
            server = self._connection.pgconn
            try:
                server.consume_input()
                while server.notifies() is not None:
                    self._generation += 1
            except psycopg.Error:
                self._drop()
                return None
            return self._generation

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _listen(self) -> bool:
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_SECONDS
        parameters = connections["default"].get_connection_params()
        wanted = {key: parameters[key] for key in ("dbname", "user", "password", "host", "port") if key in parameters}
        try:
            self._connection = psycopg.connect(
                **wanted, autocommit=True, connect_timeout=2, application_name="readroom notices"
            )
            self._connection.execute(f"LISTEN {CHANNEL}")  # type: ignore[call-overload]  # a constant
        except psycopg.Error:
            logger.warning("nobody listens for changes of access; every request asks the database")
            self._drop()
            return False
        self._generation += 1  # nobody knows what happened meanwhile
        return True

    def _drop(self) -> None:
        self._generation += 1
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
