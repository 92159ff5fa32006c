"""Log files under DATA/logs: one writer for each file, turned over by size."""

import logging
import os
import threading
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

MAX_BYTES = 10 * 1024 * 1024
BACKUPS = 5


class PrivateRotatingFile(RotatingFileHandler):
    """Every new file can be read by its owner only."""

    def _open(self) -> TextIOWrapper:  # type: ignore[type-arg]
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding)


class LogFile:
    """A log file of raw lines; keeps five older files of 10 MB each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._handler = PrivateRotatingFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, line: str) -> None:
        self._handler.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def follow(self, stream: IO[bytes]) -> threading.Thread:
        """Copy the lines of a child's output in a thread until it closes."""

        def copy() -> None:
            with stream:
                for line in stream:
                    self.write(line.decode("utf-8", "replace").rstrip("\n"))

        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self._handler.close()
