"""A DICOM Part 10 file read up to and around its pixels, without decoding anything.

The walk looks at tags and lengths only, so its cost depends on the header and not on the images. It reads Implicit and
Explicit VR, little and big endian, deflated and every encapsulated transfer syntax (PS3.5, PS3.10). The tests
hold it against `pydicom`. A structure that contradicts itself is refused, not guessed at.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studies.dicom.elements import PIXEL_TAGS, UNDEFINED, Element, Item, Part10, Part10Error, tag_name
from studies.dicom.preamble import guess_transfer_syntax, has_preamble
from studies.dicom.vr import (
    DEFLATED,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    KNOWN_VRS,
    LONG_VRS,
    VR_NAMES,
    private_vr,
    vr_of,
)

__all__ = [
    "DEFLATED", "EXPLICIT_BE", "EXPLICIT_LE", "IMPLICIT_LE", "UNDEFINED", "Part10", "Part10Error", "mapped", "tag_name",
    "walk", "walk_bare",
]  # fmt: skip

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

MAX_DEPTH = 64
MAX_ELEMENTS = 2_000_000
MAX_INFLATED = 1 << 30


class _Walk:
    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.count = 0
        self.fragments: list[tuple[int, int]] = []
        self.basic_offsets: list[int] = []

    def dataset(
        self, position: int, end: int, implicit: bool, order: str, depth: int, parent: Item | None = None
    ) -> tuple[Item, int]:
        """Read elements until `end`, or until the delimiter of an item; returns them and the position after."""
        buffer, found = self.buffer, Item(implicit, order)
        head = struct.Struct(order + "HH2sH").unpack_from
        head_implicit = struct.Struct(order + "HHI").unpack_from
        long = struct.Struct(order + "I").unpack_from
        while position + 8 <= end:
            self.count += 1
            if implicit:
                group, number, length = head_implicit(buffer, position)
                tag = group << 16 | number
                position += 8
                vr, code = "", b""
            else:
                group, number, code, length = head(buffer, position)
                tag = group << 16 | number
                if group == 0xFFFE:
                    (length,) = long(buffer, position + 4)
                    position += 8
                    vr = ""
                elif code in LONG_VRS:
                    if position + 12 > end:
                        raise self._truncated(tag, position, 12, end)
                    (length,) = long(buffer, position + 8)
                    position += 12
                    vr = VR_NAMES[code]
                elif code in KNOWN_VRS:
                    position += 8
                    vr = VR_NAMES[code]
                elif b"AA" <= code <= b"ZZ":
                    position += 8
                    vr = "UN"
                else:  # a writer that slipped into implicit VR
                    (length,) = long(buffer, position + 4)
                    position += 8
                    vr = ""
            if tag == ITEM_END:
                return found, position
            if tag == SEQUENCE_END and depth:  # an item without its delimiter
                return found, position - 8
            if tag == 0 and length == 0 and depth == 0 and not any(buffer[position : min(end, position + 4096)]):
                break  # padding with zeros at the end of the file
            if self.count > MAX_ELEMENTS:
                raise Part10Error("too_complex", f"The header has more than {MAX_ELEMENTS:,} elements.")
            if not vr or vr == "UN":
                vr = self._vr(tag, vr, length, found, parent)
            if length == UNDEFINED:
                if tag in PIXEL_TAGS and depth == 0:
                    found[tag] = (vr, position, UNDEFINED, None)
                    position = self._encapsulated(position)
                    continue
                as_implicit = implicit or code == b"UN"  # PS3.5 6.2.2
                items, position = self._items(tag, position, end, True, as_implicit, order, depth, found)
                found[tag] = ("SQ", position, 0, items)
                continue
            if position + length > end:
                raise self._truncated(tag, position, length, end)
            if vr == "SQ" and length:
                try:
                    as_implicit = implicit or code == b"UN"
                    items, _ = self._items(tag, position, position + length, False, as_implicit, order, depth, found)
                    found[tag] = ("SQ", position, length, items)
                except Part10Error as error:
                    if error.code != "malformed":
                        raise
                    found[tag] = ("UN", position, length, None)
            elif vr == "SQ":
                found[tag] = ("SQ", position, 0, [])
            else:
                found[tag] = (vr, position, length, None)
            position += length
        if depth == 0 and end == self.size and any(buffer[position:end]) and not PIXEL_TAGS & found.keys():
            raise Part10Error("truncated", f"The file ends inside an element at byte {position:,}.")
        return found, position

    def _items(
        self, tag: int, position: int, end: int, delimited: bool, implicit: bool, order: str, depth: int, parent: Item
    ) -> tuple[list[Item], int]:
        if depth >= MAX_DEPTH:
            raise Part10Error("too_deep", f"Sequences are nested deeper than {MAX_DEPTH} levels at byte {position:,}.")
        items: list[Item] = []
        head = struct.Struct(order + "HHI").unpack_from
        while position + 8 <= end:
            group, number, length = head(self.buffer, position)
            mark = group << 16 | number
            if mark == SEQUENCE_END:
                return items, position + 8
            if mark != ITEM:
                raise Part10Error(
                    "malformed",
                    f"Sequence {tag_name(tag)} has {tag_name(mark)} where an item is due, byte {position:,}.",
                )
            position += 8
            if length != UNDEFINED and position + length > end:
                if delimited or end < self.size:
                    raise Part10Error("malformed", f"An item of {tag_name(tag)} is longer than its sequence.")
                raise self._truncated(tag, position, length, end)
            self.count += 1  # an empty item costs memory too
            if self.count > MAX_ELEMENTS:
                raise Part10Error("too_complex", f"The header has more than {MAX_ELEMENTS:,} elements and items.")
            stop = end if length == UNDEFINED else position + length
            item, after = self.dataset(position, stop, implicit, order, depth + 1, parent)
            items.append(item)
            position = after if length == UNDEFINED else stop
        if delimited:
            raise Part10Error("truncated", f"The file ends inside sequence {tag_name(tag)}.")
        return items, end

    def _encapsulated(self, position: int) -> int:
        """Note the fragments (PS3.5 A.4; always little endian)."""
        unpack = struct.Struct("<HHI").unpack_from
        first = True
        while position + 8 <= self.size:
            group, number, length = unpack(self.buffer, position)
            mark = group << 16 | number
            position += 8
            if mark == SEQUENCE_END:
                return position
            if mark != ITEM or length == UNDEFINED:
                raise Part10Error(
                    "malformed", f"The pixel data has no fragment where one is due, byte {position - 8:,}."
                )
            if position + length > self.size:
                raise self._truncated(0x7FE00010, position, length, self.size)
            if first:
                count = length // 4
                self.basic_offsets = list(struct.unpack_from(f"<{count}I", self.buffer, position))
                first = False
            else:
                self.fragments.append((position, length))
                if len(self.fragments) > MAX_ELEMENTS:
                    raise Part10Error("too_complex", f"The pixel data has more than {MAX_ELEMENTS:,} fragments.")
            position += length
        return self.size  # no delimiter: every fragment is whole, so nothing is missing

    def _vr(self, tag: int, vr: str, length: int, found: Item, parent: Item | None) -> str:
        """The VR of an element that does not say it, or says UN."""
        if vr == "UN" and length >= 0xFFFF and length != UNDEFINED:
            return "UN"
        known = vr_of(tag)
        group, number = tag >> 16, tag & 0xFFFF
        if group & 1 and number > 0xFF and number >> 8 >= 0x10:
            creator = found.get(group << 16 | number >> 8)
            if creator is not None and creator[2] <= 64:
                name = bytes(self.buffer[creator[1] : creator[1] + creator[2]]).decode("latin-1").rstrip(" \0")
                known = private_vr(tag, name)
        if " or " in known:
            known = self._resolve(tag, known, found, parent)
        if length == UNDEFINED and vr == "UN" and known != "SQ":
            return "UN"
        return known

    def _resolve(self, tag: int, known: str, found: Item, parent: Item | None) -> str:
        """PS3.5 A.1 and the notes of PS3.6 for VRs that depend on the data set."""
        if tag in PIXEL_TAGS or tag >> 16 == 0x5400 or tag >> 24 in (0x50, 0x60):
            return "OW"
        if "SS" in known:
            signed = found.get(0x00280103) or (parent.get(0x00280103) if parent else None)
            if signed is None or signed[2] < 2:
                return "US"
            order = found.order
            return "SS" if struct.unpack_from(order + "H", self.buffer, signed[1])[0] == 1 else "US"
        if tag == 0x00283006:
            entries = found.get(0x00283002)
            one = entries is not None and struct.unpack_from(found.order + "H", self.buffer, entries[1])[0] == 1
            return "US" if one else "OW"
        return "OW"

    def _truncated(self, tag: int, position: int, length: int, end: int) -> Part10Error:
        return Part10Error(
            "truncated",
            f"The file ends early: element {tag_name(tag)} at byte {position:,} announces {length:,} bytes, "
            f"{max(0, end - position):,} are left.",
        )


def inflated(buffer: Any, start: int) -> Any:
    """The file with its deflated part (PS3.5 A.5) inflated, as a memory map of a temporary file: a small file may hold
    gigabytes. Never beyond `MAX_INFLATED` bytes."""
    engine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with tempfile.TemporaryFile() as whole:
        whole.write(buffer[:start])
        try:
            for at in range(start, len(buffer), 1 << 20):
                piece = bytes(buffer[at : at + (1 << 20)])
                while piece:
                    out = engine.decompress(piece, 1 << 22)
                    total += len(out)
                    if total > MAX_INFLATED:
                        raise Part10Error("too_large", f"The deflated data set grows beyond {MAX_INFLATED:,} bytes.")
                    whole.write(out)
                    piece = engine.unconsumed_tail
                if engine.eof:
                    break
            whole.write(engine.flush())
        except zlib.error as error:
            raise Part10Error("malformed", f"The deflated data set cannot be inflated: {error}.") from error
        if not engine.eof:
            raise Part10Error("truncated", "The file ends inside the deflated data set.")
        whole.flush()
        return mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ)


def walk(buffer: Any) -> Part10:
    """Walk a whole file given as bytes, memoryview or mmap.

    Raises `Part10Error`: not_dicom, truncated, malformed, too_deep, too_complex, too_large.
    """
    if len(buffer) == 0:
        raise Part10Error("empty", "The file is empty.")
    if not has_preamble(bytes(buffer[:132])):
        raise Part10Error("not_dicom", "This is not a DICOM file: the mark DICM is missing at byte 128.")
    reader = _Walk(buffer)
    meta, start = _meta(reader, 132)
    syntax = _text(buffer, meta.get(0x00020010))
    if not syntax:
        syntax = guess_transfer_syntax(bytes(buffer[start : start + 8]).ljust(8, b"\0"))
    if syntax in DEFLATED:
        buffer = inflated(buffer, start)
        reader = _Walk(buffer)
    implicit, order = syntax == IMPLICIT_LE, ">" if syntax == EXPLICIT_BE else "<"
    first = bytes(buffer[start + 4 : start + 6])
    if implicit and first in KNOWN_VRS:
        implicit = False  # the meta header is wrong; the data set shows it
    elif not implicit and len(first) == 2 and first not in KNOWN_VRS and not b"AA" <= first <= b"ZZ":
        implicit = True
    dataset, _ = reader.dataset(start, len(buffer), implicit, order, 0)
    return Part10(buffer, meta, dataset, syntax, start, reader.fragments, reader.basic_offsets)


def _meta(reader: _Walk, position: int) -> tuple[Item, int]:
    """The file meta information (PS3.10 7.1). Its group length is often wrong, so the group number decides."""
    buffer, meta = reader.buffer, Item(False, "<")
    while position + 8 <= reader.size and bytes(buffer[position : position + 2]) == b"\x02\x00":
        _, number, code, length = struct.unpack_from("<HH2sH", buffer, position)
        if code in LONG_VRS:
            if position + 12 > reader.size:
                raise Part10Error("truncated", "The file ends inside its meta header.")
            (length,) = struct.unpack_from("<I", buffer, position + 8)
            position += 12
        else:
            position += 8
        if position + length > reader.size:
            raise Part10Error("truncated", "The file ends inside its meta header.")
        meta[0x00020000 | number] = (VR_NAMES.get(code, "UN"), position, length, None)
        position += length
    return meta, position


def _text(buffer: Any, element: Element | None) -> str:
    if element is None or element[2] > 256:
        return ""
    return bytes(buffer[element[1] : element[1] + element[2]]).decode("latin-1").strip(" \0")


@contextmanager
def mapped(path: Path | str) -> Iterator[Any]:
    """The bytes of a file as a read-only memory map (an empty file as empty bytes)."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield view


def walk_bare(buffer: Any, transfer_syntax_uid: str) -> Part10:
    """Walk a data set that has neither preamble nor meta header. Raises `Part10Error`."""
    order = ">" if transfer_syntax_uid == EXPLICIT_BE else "<"
    reader = _Walk(buffer)
    dataset, _ = reader.dataset(0, len(buffer), transfer_syntax_uid == IMPLICIT_LE, order, 0)
    return Part10(buffer, Item(False, "<"), dataset, transfer_syntax_uid, 0, reader.fragments, reader.basic_offsets)
