"""Damaged DICOM files, made from pydicom's own test files by a seeded generator: the same seed, the same file."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pydicom

MAX_SIZE = 300_000  # of the files that are mutated
INTERESTING = [0, 1, 2, 7, 8, 0x7F, 0xFF, 0x100, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
MARKS = [
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # item of undefined length
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x0c\0\\ISO 2022 IR",
    b"\x1b$)C",
    b"\x00",
    b"SQ",
    b"UN",
]


def originals() -> list[bytes]:
    """The DICOM files that come inside pydicom, up to `MAX_SIZE` bytes, in a fixed order."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return [data for path in sorted(folder.glob("*.dcm")) if 0 < len(data := path.read_bytes()) <= MAX_SIZE]


def mutated(files: list[bytes], seed: int) -> bytes:
    """One to six changes: bytes, bits, lengths, cuts, repetitions, parts of another file, marks of the standard."""
    random_ = random.Random(seed)
    data = bytearray(random_.choice(files))
    for _ in range(random_.randint(1, 6)):
        # Most of what can break lies in the header.
        span = min(len(data), random_.choice([200, 1000, 4000, len(data)])) or 1
        at = random_.randrange(span)
        kind = random_.randrange(9)
        if kind == 0:
            data[at : at + 1] = bytes([random_.randrange(256)])
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 2:
            data[at : at + 4] = struct.pack(random_.choice("<>") + "I", random_.choice(INTERESTING))
        elif kind == 3:
            data[at : at + 2] = struct.pack("<H", random_.choice(INTERESTING) & 0xFFFF)
        elif kind == 4:
            del data[at : at + random_.choice([1, 2, 4, 8, 100, len(data)])]
        elif kind == 5:
            data[at:at] = data[at : at + random_.choice([2, 8, 64, 512])] * random_.choice([1, 2, 50])
        elif kind == 6:
            other = random_.choice(files)
            start = random_.randrange(len(other))
            data[at : at + 64] = other[start : start + random_.choice([16, 64, 1024])]
        elif kind == 7:
            data[at:at] = random_.choice(MARKS) * random_.choice([1, 1, 3, 100])
        else:
            data[at:at] = bytes(random_.randrange(256) for _ in range(random_.randint(1, 12)))
    return bytes(data)
