"""What a compressed frame says of its own size, read from its markers without decoding it.

Decoders allocate what the codestream claims, so a frame of a few bytes may ask for gigabytes.
"""

from __future__ import annotations

import struct

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # JPEG (T.81 B.2.2) and JPEG-LS (T.87 C.2.2)
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_JP2 = b"\0\0\0\x0cjP  "


def dimensions(data: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream; None where it says nothing."""
    if data.startswith(_JP2):
        start = data.find(b"\xff\x4f\xff\x51")
        data = data[start:] if start >= 0 else b""
    if data.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg2000(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    return None


def _jpeg2000(data: bytes) -> tuple[int, int, int] | None:
    """The SIZ segment (T.800 A.5.1)."""
    if len(data) < 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    return max(0, bottom - top), max(0, right - left), components


def _jpeg(data: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        mark = data[at + 1]
        if mark == 0xFF:
            at += 1
        elif mark in _ALONE:
            at += 2
        elif mark in _SOF:
            if at + 10 > len(data):
                return None
            rows, columns, components = struct.unpack_from(">HHB", data, at + 5)
            return rows, columns, components
        elif mark in (0xD9, 0xDA):
            return None
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None
