"""A place where the objects of one retrieval gather until all of them are there.

The retrieving process holds a lock on it; with C-MOVE the objects arrive in the listener's process, which finds the
place by node and study. Nothing of it enters the archive before the remote has said that it sent everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from studies.dimse.errors import RemoteError
from studies.dimse.models import RemoteNode
from studies.ingest.staging import incoming


def _place(node: RemoteNode, study_instance_uid: str) -> Path:
    name = hashlib.sha256(f"{node.pk} {study_instance_uid}".encode()).hexdigest()[:32]
    return incoming().parent / f"retrieval-{name}"


@dataclass
class Landing:
    folder: Path

    def new_path(self) -> Path:
        return self.folder / f"{uuid.uuid4().hex}.part"

    def take(self, path: Path) -> None:
        os.rename(path, self.new_path())

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.part"))

    def clear(self, keep: Iterable[Path] = ()) -> None:
        kept = set(keep)
        for path in self.folder.iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """From here on nothing more can land."""
        closed = self.folder.with_name(f"{self.folder.name}-{uuid.uuid4().hex}")
        os.rename(self.folder, closed)
        self.folder = closed


@contextlib.contextmanager
def opened(node: RemoteNode, study_instance_uid: str) -> Iterator[Landing]:
    """The place of a retrieval; gone at the end with all that was not stored. Raises RemoteError where it is in use."""
    folder = _place(node, study_instance_uid)
    key = int.from_bytes(hashlib.sha256(folder.name.encode()).digest()[:8], signed=True)
    if not _advisory("pg_try_advisory_lock", key):  # goes with the connection, so a killed process leaves none
        raise RemoteError("This study is being retrieved already.", "Wait until that has ended.")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        landing = Landing(folder)
        try:
            yield landing
        finally:
            shutil.rmtree(landing.folder, ignore_errors=True)
    finally:
        _advisory("pg_advisory_unlock", key)


def _advisory(function: str, key: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s)", [key])
        return bool(cursor.fetchone()[0])


def land(node: RemoteNode, study_instance_uid: str, path: Path) -> bool:
    """Put an object aside for a retrieval that runs; False where none does."""
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        Landing(_place(node, study_instance_uid)).take(path)
    except FileNotFoundError:
        return False
    return True
