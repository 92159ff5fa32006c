"""Bytes on their way into the archive: copied, hashed, walked, moved to their place and synced.

Nothing here touches the database. A file keeps a random name, so neither its path nor a directory listing tells whose
it is; until its rows are committed it is an orphan that nobody sees.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings

from studies.dicom import part10, preamble
from studies.ingest import header, limits
from studies.ingest.outcome import Refused

Source = Path | bytes | IO[bytes]


@dataclass(slots=True)
class Staged:
    name: str
    path: Path
    size: int
    sha256: str
    header: header.Header
    file: str = ""  # its place below MEDIA_ROOT once moved


def media(*parts: str) -> Path:
    return Path(settings.MEDIA_ROOT, *parts)


def incoming() -> Path:
    folder = media("incoming")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{uuid.uuid4().hex}.part"


def stage(source: Source, name: str, limit: int | None = None) -> Staged:
    """Copy a source to the incoming folder, hash and walk it. Raises `Refused`; its `path` attribute is the copy, where
    its bytes are worth keeping."""
    target = incoming()
    try:
        size, sha256 = _copy(source, target, limits.MAX_FILE if limit is None else limit)
        return _walked(target, name, size, sha256)
    except Refused as refusal:
        if not refusal.keep:
            target.unlink(missing_ok=True)
        else:
            refusal.path = target
        raise
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def adopt(path: Path, name: str, size: int, sha256: str) -> Staged:
    """Like `stage` for a file that was already written to the incoming folder. Its sender said that it is DICOM, so it
    is kept even where nothing in it looks like that."""
    try:
        return _walked(path, name, size, sha256)
    except Refused as refusal:
        if refusal.keep or refusal.code == "not_dicom":
            refusal.path = path
        else:
            path.unlink(missing_ok=True)
        raise


def _walked(path: Path, name: str, size: int, sha256: str) -> Staged:
    try:
        found = header.read(path)
    except Refused as refusal:
        if refusal.code != "not_dicom":
            raise
        size, sha256 = _give_preamble(path)
        found = header.read(path)
    return Staged(name=name, path=path, size=size, sha256=sha256, header=found)


def _copy(source: Source, target: Path, limit: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    if isinstance(source, bytes):
        if len(source) > limit:
            raise Refused("too_large", f"The file is larger than {limit:,} bytes.", keep=False)
        target.write_bytes(source)
        return len(source), hashlib.sha256(source).hexdigest()
    opened = open(source, "rb") if isinstance(source, Path) else None  # noqa: SIM115
    reader = opened or source
    try:
        head = b""
        while len(head) < 132 and (piece := reader.read(132 - len(head))):  # type: ignore[union-attr]
            head += piece
        if head and not preamble.has_preamble(head) and not preamble.looks_like_dataset(head):
            raise Refused("not_dicom", "This is not a DICOM file: the mark DICM is missing at byte 128.", keep=False)
        with open(target, "wb") as out:
            piece = head
            while piece:
                size += len(piece)
                if size > limit:
                    raise Refused("too_large", f"The file is larger than {limit:,} bytes.", keep=False)
                digest.update(piece)
                out.write(piece)
                piece = reader.read(limits.COPY)  # type: ignore[union-attr]
    finally:
        if opened is not None:
            opened.close()
    return size, digest.hexdigest()


def _give_preamble(path: Path) -> tuple[int, str]:
    """Rewrite a file that has no preamble, or neither preamble nor meta header; its data set stays as it is."""
    not_dicom = Refused(
        "not_dicom",
        "This is not a DICOM file: the mark DICM is missing at byte 128, and no data set starts here.",
        keep=False,
    )
    with open(path, "rb") as file:
        head = file.read(132)
    if not preamble.looks_like_dataset(head):
        raise not_dicom
    if head[:2] == b"\x02\x00":
        prefix = b"\0" * 128 + b"DICM"
    else:
        syntax = preamble.guess_transfer_syntax(head)
        prefix = preamble.meta_header(syntax, "", "")
        with part10.mapped(path) as buffer:
            try:
                bare = part10.walk_bare(buffer, syntax)
                sop_class, sop_instance = bare.text(0x00080016), bare.text(0x00080018)
            except part10.Part10Error as error:
                if error.code == "truncated" and len(buffer) > 512:
                    raise Refused(error.code, error.reason) from error
                raise not_dicom from error
        if not sop_class:
            raise not_dicom
        prefix = preamble.meta_header(syntax, sop_class, sop_instance)
    whole = path.with_suffix(".whole")
    with open(path, "rb") as old:
        size, sha256 = 0, hashlib.sha256()
        with open(whole, "wb") as new:
            piece = prefix
            while piece:
                new.write(piece)
                sha256.update(piece)
                size += len(piece)
                piece = old.read(limits.COPY)
    os.replace(whole, path)
    return size, sha256.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(staged: Iterable[Staged], project_id: int) -> None:
    """Move the files to a folder and sync them and it. Sets `Staged.file`.

    A group shares one of 256 folders, because each folder costs a sync of its own.
    """
    files = list(staged)
    if not files:
        return
    shared = uuid.uuid4().hex[:2]
    folder = media("instances", str(project_id), shared)
    _make(folder)
    for one in files:  # before the syncs: one that writes the file writes its new name too, on most file systems
        name = f"{shared}{uuid.uuid4().hex[2:]}.dcm"
        one.file = f"instances/{project_id}/{shared}/{name}"
        target = folder / name
        os.replace(one.path, target)
        one.path = target
    if len(files) == 1:
        _sync(files[0].path)
    else:
        with ThreadPoolExecutor(max_workers=8) as pool:  # syncs that run together share the journal's commits
            list(pool.map(_sync, [one.path for one in files]))
    _sync(folder)


def _make(folder: Path) -> None:
    """A folder, with those above it, that is there after a power cut too."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def put_back(staged: Staged, place: Path) -> None:
    """Give a lost file its place again."""
    _make(place.parent)
    _sync(staged.path)
    os.replace(staged.path, place)
    _sync(place.parent)


def quarantine(path: Path, project_id: int) -> str:
    """Sync a refused file and move it aside; returns its place below MEDIA_ROOT/quarantine."""
    place = f"{project_id}/{uuid.uuid4().hex}"
    target = quarantined(place)
    _make(target.parent)
    _sync(path)
    os.replace(path, target)
    _sync(target.parent)
    return place


def quarantined(place: str) -> Path:
    return media("quarantine", place)
