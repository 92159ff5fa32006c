"""Where every frame lies in its file, so that serving one needs a single read.

A table has one of two shapes:
- `[offset, length]`, flat: native frames, equal in size and adjacent; frame k (from 0) is at `offset + k * length`;
- a list with one entry a frame, `[offset, length, offset, length, …]`: one pair for each fragment of the frame. Native
  one-bit frames that do not start on a byte also take this shape: the bytes that touch the frame.
It is empty for objects without pixel data, and for deflated files, whose frames have no place in the file.
"""

from __future__ import annotations

import struct
from typing import Any

from pydicom.uid import UID_dictionary

from studies.dicom.elements import UNDEFINED, Part10, Part10Error
from studies.dicom.vr import DEFLATED

FrameTable = list[Any]


def frame_bits(file: Part10) -> int:
    """Bits of one native frame (PS3.5 8.1, PS3.3 C.7.6.3)."""
    rows, columns = file.number(0x00280010) or 0, file.number(0x00280011) or 0
    samples = file.number(0x00280002) or 1
    allocated = file.number(0x00280100)
    if allocated is None:
        allocated = {0x7FE00008: 32, 0x7FE00009: 64}.get(file.pixel_tag or 0, 0)
    bits = rows * columns * samples * allocated
    if file.text(0x00280004) == "YBR_FULL_422" and samples == 3:
        bits = bits // 3 * 2
    if bits == 0:
        raise Part10Error(
            "bad_pixel_data", "Rows, Columns or BitsAllocated is missing or zero, so no frame can be read."
        )
    return bits


def number_of_frames(file: Part10) -> int:
    if file.pixel_element is None:
        return 0
    return max(1, file.number(0x00280008) or 1)


def frame_table(file: Part10) -> FrameTable:
    """The table of a file that was walked. Raises `Part10Error` (truncated, bad_pixel_data)."""
    element = file.pixel_element
    if element is None:
        return []
    count = number_of_frames(file)
    _, offset, length, _ = element
    if length == UNDEFINED:
        frame_bits(file)
        return _encapsulated(file, count)
    if _compressed(file.transfer_syntax_uid):
        raise Part10Error(
            "bad_pixel_data", "The transfer syntax is a compressed one, but the pixel data has no fragments."
        )
    bits = frame_bits(file)
    if length * 8 < bits * count:
        raise Part10Error(
            "truncated",
            f"The pixel data holds {length:,} bytes; {count} frame(s) of {file.number(0x00280010)} × "
            f"{file.number(0x00280011)} need {(bits * count + 7) // 8:,}.",
        )
    if file.transfer_syntax_uid in DEFLATED:
        return []
    if bits % 8 == 0:
        return [offset, bits // 8]
    if count > 1_000_000:
        raise Part10Error("too_complex", f"{count:,} frames are more than can be indexed.")
    table = []
    for k in range(count):
        first, last = bits * k // 8, (bits * (k + 1) + 7) // 8
        table.append([offset + first, last - first])
    return table


def _compressed(transfer_syntax_uid: str) -> bool:
    name = UID_dictionary.get(transfer_syntax_uid, ("",))[0]
    return "JPEG" in name or "RLE" in name or "MPEG" in name or "HEVC" in name


def _encapsulated(file: Part10, count: int) -> FrameTable:
    fragments = file.fragments
    if not fragments:
        raise Part10Error("bad_pixel_data", "The pixel data is encapsulated but has no fragment.")
    if count == 1:
        return [[number for pair in fragments for number in pair]]
    if len(fragments) == count:
        return [list(pair) for pair in fragments]
    if len(fragments) < count:
        raise Part10Error("truncated", f"The pixel data has {len(fragments)} fragment(s) for {count} frames.")
    starts = _extended_offsets(file) or file.basic_offsets
    if len(starts) == count:
        grouped = _by_offset(fragments, starts)
        if grouped is not None:
            return grouped
    grouped = _by_marker(file.buffer, fragments)
    if len(grouped) == count:
        return grouped
    raise Part10Error(
        "bad_pixel_data",
        f"{len(fragments)} fragments cannot be divided into {count} frames: no usable offset table, and "
        f"{len(grouped)} end-of-image marks.",
    )


def _extended_offsets(file: Part10) -> list[int]:
    element = file.dataset.get(0x7FE00001)
    if element is None or element[3] is not None or element[2] == UNDEFINED:
        return []
    raw = file.raw(element)
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8]))


def _by_offset(fragments: list[tuple[int, int]], starts: list[int]) -> FrameTable | None:
    """Offsets count from the first byte of the first fragment's item tag (PS3.5 A.4)."""
    origin = fragments[0][0] - 8
    position = {start: k for k, start in enumerate(starts)}
    if len(position) != len(starts) or starts[0] != 0 or starts != sorted(starts):
        return None
    table: FrameTable = []
    for offset, length in fragments:
        if offset - 8 - origin in position:
            table.append([])
        if not table:
            return None
        table[-1] += [offset, length]
    return table if len(table) == len(starts) else None


def _by_marker(buffer: Any, fragments: list[tuple[int, int]]) -> FrameTable:
    """A frame ends with the fragment that ends in an EOI/EOC mark (FFD9), give or take its padding."""
    table: FrameTable = [[]]
    for offset, length in fragments:
        table[-1] += [offset, length]
        tail = bytes(buffer[max(offset, offset + length - 10) : offset + length])
        if b"\xff\xd9" in tail:
            table.append([])
    return [frame for frame in table if frame]
