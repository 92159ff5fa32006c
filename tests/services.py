"""pytest plugin (`-p tests.services`): PostgreSQL and Valkey for the tests, before Django's settings load.

What `DATABASE_URL` or `CELERY_BROKER_URL` name is used as it is; what they leave open is started as the portal starts
it, in a temporary data folder, without waiting for the disk. Folders and services are gone when pytest ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from portal.runtime.data_folder import DataFolder
from portal.runtime.embedded import EmbeddedServices
from tests.browser import VIEWER

_temporary: Path | None = None
_services: EmbeddedServices | None = None


def start() -> None:
    global _temporary, _services
    if not os.environ.get("DATA"):
        _temporary = Path(tempfile.mkdtemp(prefix="readroom-test-"))
        _temporary.chmod(0o711)  # PostgreSQL passes through it as another user when root runs the tests
        os.environ["DATA"] = str(_temporary)
        if VIEWER.is_dir():
            (_temporary / "viewer").symlink_to(VIEWER, target_is_directory=True)
    _services = EmbeddedServices(DataFolder(), durable=False)
    _services.open()


def stop() -> None:
    global _temporary, _services
    if _services is not None:
        _services.close()
        _services = None
    if _temporary is not None:
        shutil.rmtree(_temporary, ignore_errors=True)
        _temporary = None


def pytest_unconfigure() -> None:
    stop()


if not {"-h", "--help", "--version", "-V"} & set(sys.argv):
    start()
