"""The first bytes of a file: whether it is DICOM, and a preamble and meta header where it has none (PS3.10 7.1)."""

from __future__ import annotations

import struct

from studies.dicom.vr import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, KNOWN_VRS


def has_preamble(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def looks_like_dataset(head: bytes) -> bool:
    """Whether bytes without the DICM mark may be a bare data set: a low even group and a plausible length."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, _, length = struct.unpack(order + "HHI", head[:8])
        if group in (0x0002, 0x0008) and (head[4:6] in KNOWN_VRS or length < 4096):
            return True
    return False


def guess_transfer_syntax(head: bytes) -> str:
    """The syntax of a data set whose meta header does not say it."""
    little = struct.unpack("<H", head[:2])[0]
    if head[4:6] in KNOWN_VRS:
        return EXPLICIT_LE if little < 0x0100 else EXPLICIT_BE
    return IMPLICIT_LE


def meta_header(transfer_syntax_uid: str, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Preamble and meta header for a data set that came without one (PS3.10 7.1)."""

    def ui(number: int, value: str) -> bytes:
        data = value.encode()
        data += b"\0" * (len(data) % 2)
        return struct.pack("<HH2sH", 2, number, b"UI", len(data)) + data

    body = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    body += ui(2, sop_class_uid) + ui(3, sop_instance_uid) + ui(0x10, transfer_syntax_uid)
    body += ui(0x12, "1.2.826.0.1.3680043.8.498.1")
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body
