"""Bytes on their way into the archive: copied, hashed, walked, synced and moved to their place.

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
            refusal.path = target  # type: ignore[attr-defined]
        raise
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def adopt(path: Path, name: str, size: int, sha256: str) -> Staged:
    """Like `stage` for a file that was already written to the incoming folder."""
    try:
        return _walked(path, name, size, sha256)
    except Refused as refusal:
        if refusal.keep:
            refusal.path = path  # type: ignore[attr-defined]
        else:
            path.unlink(missing_ok=True)
        raise


def _walked(path: Path, name: str, size: int, sha256: str) -> Staged:
    if size == 0:
        raise Refused("empty", "The file is empty.", keep=False)
    with open(path, "rb") as file:
        head = file.read(132)
    if not preamble.has_preamble(head):
        size, sha256 = _give_preamble(path, head)
    return Staged(name=name, path=path, size=size, sha256=sha256, header=header.read(path))


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


def _give_preamble(path: Path, head: bytes) -> tuple[int, str]:
    """Rewrite a file that has no preamble, or neither preamble nor meta header; its data set stays as it is."""
    not_dicom = Refused(
        "not_dicom",
        "This is not a DICOM file: the mark DICM is missing at byte 128, and no data set starts here.",
        keep=False,
    )
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
    """Sync the files, move each to its place, sync the folders. Sets `Staged.file`."""
    files = list(staged)
    if len(files) == 1:
        _sync(files[0].path)
    elif files:
        with ThreadPoolExecutor(max_workers=8) as pool:  # syncs that run together share the journal's commits
            list(pool.map(_sync, [one.path for one in files]))
    folders = set()
    for one in files:
        name = uuid.uuid4().hex
        one.file = f"instances/{project_id}/{name[:2]}/{name}.dcm"
        target = media(one.file)
        if target.parent not in folders:
            if not target.parent.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent.parent)
            folders.add(target.parent)
        os.replace(one.path, target)
        one.path = target
    for folder in folders:
        _sync(folder)


def put_back(staged: Staged, place: Path) -> None:
    """Give a lost file its place again."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sync(staged.path)
    os.replace(staged.path, place)
    _sync(place.parent)


def quarantine(path: Path, project_id: int) -> str:
    """Sync a refused file and move it aside; returns its place below MEDIA_ROOT/quarantine."""
    place = f"{project_id}/{uuid.uuid4().hex}"
    target = quarantined(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(path)
    os.replace(path, target)
    _sync(target.parent)
    return place


def quarantined(place: str) -> Path:
    return media("quarantine", place)
