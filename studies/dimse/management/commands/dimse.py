"""`manage.py dimse`: the DICOM listener, as `manage.py up` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections
from redis import RedisError

from portal.runtime import liveness
from studies.dimse import commitment, scp
from studies.dimse.errors import NodeError


class Command(BaseCommand):
    help = "Listens for other imaging systems (C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET, storage commitment)."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        if not (settings.DIMSE_PORT or settings.DIMSE_TLS_PORT):
            raise CommandError("Neither DIMSE_PORT nor DIMSE_TLS_PORT is set. Give one, for example DIMSE_PORT=11112.")
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        ae = scp.archive()
        try:
            servers = scp.listen(ae)
        except NodeError as error:
            raise CommandError(str(error)) from None
        where = ", ".join(f"{server.server_address[0]}:{server.server_address[1]}" for server in servers)
        self.stdout.write(f"Listening as {settings.DIMSE_AE_TITLE} on {where}")
        self.stdout.flush()
        name = f"dimse-{os.getpid()}@{socket.gethostname()}"
        signed = -liveness.SIGN_EVERY_SECONDS
        try:
            while True:
                if time.monotonic() - signed >= liveness.SIGN_EVERY_SECONDS:
                    signed = time.monotonic()
                    self._sign(name)
                self._send_commitments()
                if stop.wait(1.0):
                    return
        finally:
            ae.shutdown()
            with contextlib.suppress(RedisError):
                liveness.withdraw(name, [liveness.LISTENER])

    def _sign(self, name: str) -> None:
        """A sign of life for /readyz; without a broker the listener listens all the same."""
        try:
            liveness.give_sign(name, [liveness.LISTENER])
        except RedisError:
            scp.logger.warning("the broker does not take a sign of life")

    def _send_commitments(self) -> None:
        close_old_connections()
        try:
            commitment.send_due()
        except Exception as error:  # the database may be away for a moment; the listener stays
            scp.logger.error("storage commitments wait", exc_info=error)
