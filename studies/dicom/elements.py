"""The elements of a DICOM file as `studies.dicom.part10` finds them: where each value lies, and how it is written."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
UNDEFINED = 0xFFFFFFFF

# One element: VR, offset and length of its value in the buffer, items of a sequence (else None).
Element = tuple[str, int, int, "list[Item] | None"]


class Part10Error(Exception):
    """A file that cannot be read; `code` for programs, `reason` for people (what, and where in the file)."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Item(dict[int, Element]):
    """The elements of one data set by tag; `implicit` and `order` say how its values are written."""

    __slots__ = ("implicit", "order")

    def __init__(self, implicit: bool, order: str) -> None:
        super().__init__()
        self.implicit = implicit
        self.order = order


@dataclass(slots=True)
class Part10:
    """What a walk found. `buffer` is the file, for deflated files the inflated data set behind its meta header."""

    buffer: Any
    meta: Item
    dataset: Item
    transfer_syntax_uid: str
    dataset_offset: int
    fragments: list[tuple[int, int]] = field(default_factory=list)
    basic_offsets: list[int] = field(default_factory=list)

    @property
    def encapsulated(self) -> bool:
        return self.pixel_element is not None and self.pixel_element[2] == UNDEFINED

    @property
    def pixel_tag(self) -> int | None:
        return next((tag for tag in PIXEL_TAGS if tag in self.dataset), None)

    @property
    def pixel_element(self) -> Element | None:
        tag = self.pixel_tag
        return None if tag is None else self.dataset[tag]

    def raw(self, element: Element) -> bytes:
        return bytes(self.buffer[element[1] : element[1] + element[2]])

    def text(self, tag: int, dataset: Item | None = None) -> str:
        """The value of an element of the default repertoire (UI, CS, DA, IS …), stripped; "" where it is absent."""
        element = (self.dataset if dataset is None else dataset).get(tag)
        if element is None or element[3] is not None or element[2] > 65536:
            return ""
        return self.raw(element).decode("latin-1").strip(" \0")

    def number(self, tag: int) -> int | None:
        """A US, UL or IS value; None where it is absent or not a number."""
        element = self.dataset.get(tag)
        if element is None or element[3] is not None:
            return None
        vr, _, length, _ = element
        if vr == "US" and length >= 2:
            return struct.unpack(self.dataset.order + "H", self.raw(element)[:2])[0]
        if vr == "UL" and length >= 4:
            return struct.unpack(self.dataset.order + "I", self.raw(element)[:4])[0]
        try:
            return int(float(self.text(tag).split("\\")[0]))
        except (ValueError, OverflowError):
            return None


def tag_name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
