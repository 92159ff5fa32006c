"""`manage.py dimse`: the DICOM listener, as `manage.py up` starts it."""

from __future__ import annotations

import signal
import threading
import warnings
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

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
        try:
            while not stop.wait(1.0):
                close_old_connections()
                try:
                    commitment.send_due()
                except Exception as error:  # the database may be away for a moment; the listener stays
                    scp.logger.error("storage commitments wait", exc_info=error)
        finally:
            ae.shutdown()
