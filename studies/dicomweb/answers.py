"""Bytes on their way out: files, pieces of files and texts as HTTP responses."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from studies.dicomweb import multipart
from studies.dicomweb.negotiation import JSON

WHOLE = 8 << 20  # up to this size a body is sent in one piece
CHUNK = 1 << 20
VARY = "Accept-Encoding, Cookie, Authorization"


@dataclass(frozen=True, slots=True)
class Payload:
    """One part of an answer: bytes at hand, or pieces of a file as (offset, length) pairs."""

    kind: str
    data: bytes | None = None
    path: Path | None = None
    pieces: tuple[tuple[int, int], ...] = ()
    location: str = ""

    @property
    def size(self) -> int:
        return len(self.data) if self.data is not None else sum(length for _, length in self.pieces)

    def chunks(self) -> Iterator[bytes]:
        if self.data is not None:
            yield self.data
            return
        handle = os.open(self.path or "", os.O_RDONLY)
        try:
            for offset, length in self.pieces:
                while length > 0:
                    piece = os.pread(handle, min(CHUNK, length), offset)
                    if not piece:
                        raise OSError("A stored file is shorter than its row says.")
                    yield piece
                    offset += len(piece)
                    length -= len(piece)
        finally:
            os.close(handle)


def of_file(path: Path, kind: str, location: str = "") -> Payload:
    return Payload(kind, path=path, pieces=((0, path.stat().st_size),), location=location)


def single(payload: Payload) -> HttpResponseBase:
    response: HttpResponseBase
    if payload.size <= WHOLE:
        response = HttpResponse(b"".join(payload.chunks()), content_type=payload.kind)
    else:
        response = StreamingHttpResponse(payload.chunks(), content_type=payload.kind)
    response["Content-Length"] = str(payload.size)
    if payload.location:
        response["Content-Location"] = payload.location
    return response


def related(payloads: Iterable[Payload], kind: str, *, known: list[Payload] | None = None) -> HttpResponseBase:
    """multipart/related. With `known` (all payloads) the length is announced and small bodies go in one piece."""
    boundary = multipart.new_boundary()

    def body() -> Iterator[bytes]:
        for payload in payloads:
            yield multipart.part_head(boundary, payload.kind, payload.size, payload.location)
            yield from payload.chunks()
            yield b"\r\n"
        yield multipart.end(boundary)

    content_type = multipart.content_type(boundary, kind)
    if known is None:
        return StreamingHttpResponse(body(), content_type=content_type)
    size = len(multipart.end(boundary)) + sum(
        len(multipart.part_head(boundary, one.kind, one.size, one.location)) + one.size + 2 for one in known
    )
    response: HttpResponseBase
    if size <= WHOLE:
        response = HttpResponse(b"".join(body()), content_type=content_type)
    else:
        response = StreamingHttpResponse(body(), content_type=content_type)
    response["Content-Length"] = str(size)
    return response


def json_text(request: HttpRequest, text: str) -> HttpResponse:
    """DICOM JSON; compressed where the client takes it and it is worth it."""
    data = text.encode()
    if len(data) > 1400 and takes_gzip(request):
        response = HttpResponse(gzip.compress(data, compresslevel=4, mtime=0), content_type=JSON)
        response["Content-Encoding"] = "gzip"
    else:
        response = HttpResponse(data, content_type=JSON)
    response["Vary"] = VARY
    return response


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A gzip stream of the pieces."""
    packer = zlib.compressobj(4, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def takes_gzip(request: HttpRequest) -> bool:
    return "gzip" in request.META.get("HTTP_ACCEPT_ENCODING", "")
