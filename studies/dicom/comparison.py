"""What differs between two objects, element by element, for people who have to decide which one is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydicom.datadict import keyword_for_tag

from studies.dicom.dicom_json import element_json, encodings_of
from studies.dicom.elements import PIXEL_TAGS, UNDEFINED, Element, Item, Part10, tag_name

MAX_ELEMENTS = 200_000
MAX_SHOWN = 120  # characters of a value
CHUNK = 1 << 20

# Besides the patient's group, person names, free text and private elements (PS3.15 table E.1-1).
_IDENTIFYING = frozenset(
    {
        0x00080050, 0x00080080, 0x00080081, 0x00080082, 0x00080092, 0x00080094, 0x00081010, 0x00081030, 0x0008103E,
        0x00081040, 0x00081080, 0x00181000, 0x00181002, 0x00181030, 0x00200010, 0x00321060, 0x00380010, 0x00400253,
        0x00402016, 0x00402017, 0x0040A123,
    }
)  # fmt: skip
_FREE_TEXT = frozenset({"PN", "LT", "ST", "UT", "UN"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One element; `ours` and `theirs` are values as text, None where the element is absent.

    `identifying`: the values may tell who the patient is.
    """

    place: str
    keyword: str
    vr: str
    ours: str | None
    theirs: str | None
    identifying: bool


def differences(ours: Part10, theirs: Part10, limit: int = 500) -> tuple[list[Difference], bool]:
    """The first `limit` differences in the order of their tags, and whether these are all.

    Values are compared as the standard reads them: character set, byte order and padding make no difference. Bulk data
    are compared by digest. Cost grows with the size of the files; nothing but headers is held in memory.
    """
    a, b = _flat(ours), _flat(theirs)
    found = []
    for place in sorted(a.keys() | b.keys()):
        left, right = a.get(place), b.get(place)
        if left is not None and right is not None and left[2] == right[2]:
            continue
        tag, vr, _ = left or right  # type: ignore[misc]
        found.append(
            Difference(
                place=_readable(place),
                keyword=keyword_for_tag(tag),
                vr=vr,
                ours=left and _short(left[2]),
                theirs=right and _short(right[2]),
                identifying=_identifying(place, vr),
            )
        )
        if len(found) > limit:
            return found[:limit], False
    return found, len(a) < MAX_ELEMENTS and len(b) < MAX_ELEMENTS


Place = tuple[int, ...]  # tag, item, tag, item, …, tag


def _flat(file: Part10) -> dict[Place, tuple[int, str, str]]:
    found: dict[Place, tuple[int, str, str]] = {}
    everything = _elements(file, file.meta, (), ("iso8859",)), _elements(file, file.dataset, (), ("iso8859",))
    for part in everything:
        for place, tag, vr, value in islice(part, MAX_ELEMENTS):
            found[place] = (tag, vr, value)
    return found


def _elements(
    file: Part10, dataset: Item, above: Place, inherited: tuple[str, ...]
) -> Iterator[tuple[Place, int, str, str]]:
    encodings = encodings_of(file, dataset, inherited)
    for tag in sorted(dataset):
        if tag & 0xFFFF == 0 or tag in (0xFFFCFFFC, 0x00080005):
            continue  # group lengths, trailing padding; the character set shows in the text itself
        element = dataset[tag]
        if element[3] is None:
            yield (*above, tag), tag, element[0], _value(file, tag, element, dataset, encodings)
            continue
        if not element[3]:
            yield (*above, tag), tag, "SQ", "no item"
        for number, item in enumerate(element[3], 1):
            yield from _elements(file, item, (*above, tag, number), encodings)


def _value(file: Part10, tag: int, element: Element, dataset: Item, encodings: tuple[str, ...]) -> str:
    text = element_json(file, tag, element, dataset, encodings)
    if '"BulkDataURI"' not in text:
        return _plain(json.loads(text))
    digest, size = hashlib.sha256(), 0
    places = [(element[1], element[2])]
    if element[2] == UNDEFINED:
        places = file.fragments if tag in PIXEL_TAGS else []
    for offset, length in places:
        size += length
        for at in range(offset, offset + length, CHUNK):
            digest.update(file.buffer[at : min(at + CHUNK, offset + length)])
    return f"{size:,} bytes, SHA-256 {digest.hexdigest()[:16]}…"


def _plain(value: dict[str, Any]) -> str:
    if "InlineBinary" in value:
        return f"binary {value['InlineBinary']}"
    words = []
    for one in value.get("Value", []):
        words.append("=".join(one.values()) if isinstance(one, dict) else "" if one is None else str(one))
    return "\\".join(words)


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _readable(place: Place) -> str:
    return " ".join(tag_name(part) if k % 2 == 0 else f"item {part}" for k, part in enumerate(place))


def _identifying(place: Place, vr: str) -> bool:
    tags = place[::2]
    return vr in _FREE_TEXT or any(tag >> 16 == 0x0010 or tag >> 16 & 1 or tag in _IDENTIFYING for tag in tags)
