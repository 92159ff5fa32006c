"""Stored instances found by their address, and their bytes: whole, frame by frame, or one bulk data value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import QuerySet

from studies.dicom import part10
from studies.dicom.frame_table import frame_bits
from studies.dicomweb.answers import Payload, of_file
from studies.dicomweb.negotiation import DICOM, OCTETS
from studies.dicomweb.problems import Problem, not_found
from studies.dicomweb.scope import Scope
from studies.dicomweb.visible import find_instance, find_series, find_study
from studies.ingest.staging import media
from studies.models import Instance

MEDIA_TYPES = {  # PS3.18 table 8.7.3-2 and 8.7.3-5
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.100": "video/mpeg2",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
}
NATIVE = frozenset({part10.IMPLICIT_LE, part10.EXPLICIT_LE, part10.EXPLICIT_BE, *part10.DEFLATED})


def instances_below(scope: Scope, study: str, series: str | None, instance: str | None = None) -> QuerySet[Instance]:
    """The instances of a study or series in reading order. Raises `Problem` 404 where there is none."""
    if instance is not None and series is not None:
        return Instance.objects.filter(pk=find_instance(scope, study, series, instance).pk)
    if series is not None:
        rows: QuerySet[Instance] = Instance.objects.filter(series=find_series(scope, study, series))
    else:
        rows = scope.instances.filter(series__study=find_study(scope, study))
    return rows.order_by("series__series_number", "series_id", "instance_number", "pk")


def path_of(instance: Instance) -> Path:
    return media(instance.file)


def whole(scope: Scope, instance: Instance, location: str = "") -> Payload:
    """The Part 10 file as this scope hands it out."""
    kind = f"{DICOM}; transfer-syntax={instance.transfer_syntax_uid}"
    if scope.rewrite is not None:
        return Payload(kind, data=scope.rewrite.part10(path_of(instance)), location=location)
    return of_file(path_of(instance), kind, location)


def frame_numbers(text: str, instance: Instance) -> list[int]:
    """Frame numbers of a path such as `1,3`. Raises `Problem` 400 or 404."""
    try:
        numbers = [int(word) for word in text.replace("%2C", ",").split(",")]
    except ValueError as error:
        raise Problem(400, "Frames are given as numbers from 1, separated by commas.") from error
    if instance.number_of_frames == 0:
        raise Problem(404, "This object has no pixel data, so it has no frames.")
    for number in numbers:
        if number < 1:
            raise Problem(400, "Frames are counted from 1.")
        if number > instance.number_of_frames:
            raise Problem(404, f"The object has {instance.number_of_frames} frame(s); there is no frame {number}.")
    return numbers


def stored_frame(instance: Instance, number: int, kind: str = OCTETS, location: str = "") -> Payload | None:
    """Frame `number` (from 1) as it lies in the file; None where the file does not hold it as whole little-endian
    bytes (deflated, big endian, bit-packed across bytes)."""
    pieces = frame_pieces(instance.frame_table, instance.transfer_syntax_uid, number)
    return None if pieces is None else Payload(kind, path=path_of(instance), pieces=pieces, location=location)


def frame_pieces(table: list[Any], syntax: str, number: int) -> tuple[tuple[int, int], ...] | None:
    """Where frame `number` (from 1) lies in its file, as (offset, length) pairs; None as for `stored_frame`."""
    if not table or syntax == part10.EXPLICIT_BE:
        return None
    if isinstance(table[0], int):
        offset, length = table
        return ((offset + (number - 1) * length, length),)
    if syntax in NATIVE:
        return None
    pairs = table[number - 1]
    return tuple(zip(pairs[::2], pairs[1::2], strict=True))


def native_frames(instance: Instance, numbers: list[int]) -> Iterator[bytes]:
    """Frames of an uncompressed object as little-endian bytes, each starting on a byte."""
    with part10.mapped(path_of(instance)) as buffer:
        file = part10.walk(buffer)
        element = file.pixel_element
        if element is None:
            raise not_found("frame")
        bits, data = frame_bits(file), file.buffer
        words = element[0] == "OW" or file.number(0x00280100) == 16
        swap = file.transfer_syntax_uid == part10.EXPLICIT_BE and words
        for number in numbers:
            first = bits * (number - 1)
            start, last = element[1] + first // 8, element[1] + (first + bits + 7) // 8
            raw = bytes(data[start:last])
            if bits % 8:
                ones = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
                raw = np.packbits(ones[first % 8 : first % 8 + bits], bitorder="little").tobytes()
            if swap:
                raw = _swapped(raw, file.number(0x00280100) or 16)
            yield raw


def _swapped(raw: bytes, allocated: int) -> bytes:
    """Big to little endian. OW is written in 16-bit words whatever BitsAllocated says (PS3.5 8.1.1)."""
    size = {32: 4, 64: 8}.get(allocated, 2)
    if len(raw) % size:
        raw += b"\0" * (size - len(raw) % size)
    return np.frombuffer(raw, f">u{size}").astype(f"<u{size}").tobytes()


def bulk_value(source: Path | bytes, path: str) -> Payload:
    """One value of a file, by the path that its metadata gives (`<tag>[/<item>/<tag>…]`). Raises `Problem` 404."""
    words = path.strip("/").split("/")
    if len(words) % 2 == 0:
        raise not_found("bulk data")
    if isinstance(source, bytes):
        return _bulk(part10.walk(source), words, None)
    with part10.mapped(source) as buffer:
        file = part10.walk(buffer)
        return _bulk(file, words, source if file.buffer is buffer else None)


def _bulk(file: part10.Part10, words: list[str], path: Path | None) -> Payload:
    dataset = file.dataset
    try:
        for tag, number in zip(words[:-1:2], words[1::2], strict=True):
            dataset = (dataset[int(tag, 16)][3] or [])[int(number) - 1]
        element = dataset[int(words[-1], 16)]
    except (KeyError, ValueError, IndexError):
        raise not_found("bulk data") from None
    if element[2] == part10.UNDEFINED:
        pieces = tuple(file.fragments)
    elif element[3] is None:
        pieces = ((element[1], element[2]),)
    else:
        raise not_found("bulk data")
    if path is not None:
        return Payload(OCTETS, path=path, pieces=pieces)
    data = b"".join(bytes(file.buffer[offset : offset + length]) for offset, length in pieces)
    return Payload(OCTETS, data=data)
