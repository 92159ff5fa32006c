"""multipart/related in both directions (RFC 2046, RFC 2387); parts go from and to the disk, never whole into memory."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.dicomweb.problems import Problem
from studies.ingest import limits

CHUNK = 1 << 18
MAX_HEAD = 16 << 10
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*("[^"]{1,200}"|[^;\s]{1,200})', re.IGNORECASE)
_TYPE = re.compile(rb"^content-type\s*:\s*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def new_boundary() -> str:
    return secrets.token_hex(16)


def part_head(boundary: str, kind: str, length: int, location: str = "") -> bytes:
    lines = [f"--{boundary}", f"Content-Type: {kind}", f"Content-Length: {length}"]
    if location:
        lines.append(f"Content-Location: {location}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


def content_type(boundary: str, kind: str) -> str:
    return f'multipart/related; type="{kind.split(";")[0]}"; boundary={boundary}'


def boundary_of(header: str) -> bytes:
    found = _BOUNDARY.search(header)
    if found is None:
        raise Problem(400, "The Content-Type says multipart/related without a boundary.")
    return found.group(1).strip('"').encode("latin-1")


@dataclass(frozen=True, slots=True)
class Part:
    """A received part, already on disk."""

    kind: str
    path: Path
    size: int
    sha256: str


def receive(stream: Any, boundary: bytes, new_path: Callable[[], Path]) -> Iterator[Part]:
    """Write each part of a body to a path of `new_path` while it arrives. Raises `Problem` 400 where the body is cut or
    malformed, 413 where a part is too large; the unfinished part's file is removed."""
    mark = b"\r\n--" + boundary
    buffer = b"\r\n"  # so that a boundary at the very start looks like the others
    done = False

    def more() -> bool:
        nonlocal buffer, done
        piece = stream.read(CHUNK)
        if not piece:
            done = True
            return False
        buffer += piece
        return True

    while (at := buffer.find(mark)) < 0:
        buffer = buffer[-len(mark) :]
        if not more():
            raise Problem(400, "The body does not contain the boundary that the Content-Type announces.")
    buffer = buffer[at + len(mark) :]
    while True:
        while len(buffer) < 2 and more():
            pass
        if buffer[:2] == b"--":
            while stream.read(CHUNK):  # what follows the last boundary means nothing
                pass
            return
        while (head_end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > MAX_HEAD or not more():
                raise Problem(400, "A part of the body has no end to its header.")
        found = _TYPE.search(buffer[: head_end + 2])
        kind = found.group(1).decode("latin-1").strip() if found else ""
        buffer = buffer[head_end + 4 :]
        if buffer.startswith(mark[2:]):  # an empty part
            buffer = b"\r\n" + buffer
        path, digest, size = new_path(), hashlib.sha256(), 0
        try:
            with open(path, "wb") as out:
                while True:
                    at = buffer.find(mark)
                    ready = at if at >= 0 else max(0, len(buffer) - len(mark))
                    if ready:
                        piece, buffer = buffer[:ready], buffer[ready:]
                        size += len(piece)
                        if size > limits.MAX_FILE:
                            raise Problem(413, f"A part is larger than {limits.MAX_FILE:,} bytes.")
                        digest.update(piece)
                        out.write(piece)
                    if at >= 0:
                        buffer = buffer[len(mark) :]
                        break
                    if not more():
                        raise Problem(400, "The body ends inside a part.")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        yield Part(kind, path, size, digest.hexdigest())
