"""A walked data set as DICOM JSON text (PS3.18 annex F).

Text is UTF-8 whatever the file's character set. Small binary values are inline, others and all pixel data become
`"BulkDataURI":"bulkdata/<tag>[/<item from 1>/<tag>…]"`, relative to the instance; `with_base` makes it absolute.
Numbers written as text in the file (DS, IS) keep their spelling where JSON allows it; values that break their VR are
kept as strings. Group lengths and the group of the meta header are left out (F.2.2).
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import warnings
from collections.abc import Callable
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes

from studies.dicom.elements import PIXEL_TAGS, UNDEFINED, Element, Item, Part10, Part10Error

INLINE_LIMIT = 4096  # bytes of OB, OW, UN … kept in the header
VALUE_LIMIT = 1 << 17  # bytes of any other value kept in the header
TEXT_LIMIT = 64 << 20  # characters of a whole header
SHORT = 128  # bytes of a text that is remembered, as the slices of a series repeat most of theirs
BULK = '"BulkDataURI":"bulkdata/'

_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMERIC = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_CHARSET_TEXT = frozenset({"SH", "LO", "ST", "LT", "UC", "UT"})
_SINGLE = frozenset({"ST", "LT", "UT", "UR"})
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")
_LOOSE = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*\Z")

quoted: Callable[[str], str] = json.encoder.encode_basestring


@lru_cache(maxsize=256)
def _encodings(value: str) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = convert_encodings([term.strip() for term in value.split("\\")])
        except (LookupError, ValueError):  # unknown, or no name at all
            return ("iso8859",)
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def encodings_of(file: Part10, dataset: Item, inherited: tuple[str, ...] = ("iso8859",)) -> tuple[str, ...]:
    """Python codecs of a data set's text; an item without a character set inherits."""
    if 0x00080005 not in dataset:
        return inherited
    return _encodings(file.text(0x00080005, dataset))


def decode(raw: bytes, encodings: tuple[str, ...], *, name: bool = False) -> str:
    """Text of a value, stripped of its padding. Bytes that fit no declared character set become U+FFFD."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").rstrip(" \0")
    delimiters = {0x5C, 0x5E, 0x3D} if name else {0x5C, 0x0A, 0x0C, 0x0D, 0x09}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = decode_bytes(raw, list(encodings), delimiters)
        except (LookupError, UnicodeError):
            text = raw.decode(encodings[0] if encodings else "latin-1", errors="replace")
    return text.encode("utf-8", "replace").decode("utf-8").rstrip(" \0")


def text_of(file: Part10, tag: int, encodings: tuple[str, ...]) -> str:
    """A top-level text value, decoded; "" where it is absent. `encodings` are those of the data set."""
    element = file.dataset.get(tag)
    if element is None or element[3] is not None or not 0 < element[2] <= VALUE_LIMIT:
        return ""
    return decode(file.raw(element), encodings, name=element[0] == "PN").strip()


def dicom_json(file: Part10) -> str:
    """The whole header as one JSON object. Raises `Part10Error` (too_complex) beyond `TEXT_LIMIT` characters."""
    out: list[str] = []
    _Writer(file, out).dataset(file.dataset, "", ("iso8859",))
    return "".join(out)


def element_json(file: Part10, tag: int, element: Element, dataset: Item, encodings: tuple[str, ...]) -> str:
    """One element that is no sequence, as the object that stands for it in DICOM JSON."""
    return _Writer(file, []).value(tag, element, dataset, f"{tag:08X}", encodings)


def with_base(text: str, instance_url: str) -> str:
    """Replace the relative bulk data references by absolute ones below an instance's URL."""
    return text.replace(BULK, f'"BulkDataURI":"{instance_url}/bulkdata/') if BULK in text else text


class _Writer:
    def __init__(self, file: Part10, out: list[str]) -> None:
        self.file = file
        self.buffer = file.buffer
        self.out = out
        self.total = 0

    def dataset(self, dataset: Item, path: str, inherited: tuple[str, ...]) -> None:
        encodings = encodings_of(self.file, dataset, inherited)
        write, separator = self.out.append, "{"
        for tag in sorted(dataset):
            group = tag >> 16
            if tag & 0xFFFF == 0 or group <= 2 or group == 0xFFFE:
                continue
            element = dataset[tag]
            key = f"{tag:08X}"
            if element[3] is not None:
                write(f'{separator}"{key}":{{"vr":"SQ"')
                if element[3]:
                    write(',"Value":[')
                    for k, item in enumerate(element[3], 1):
                        if k > 1:
                            write(",")
                        self.dataset(item, f"{path}{key}/{k}/", encodings)
                    write("]")
                write("}")
            else:
                text = self.value(tag, element, dataset, path + key, encodings)
                write(f'{separator}"{key}":{text}')
                self.total += len(text)
                if self.total > TEXT_LIMIT:
                    raise Part10Error("too_complex", f"The header takes more than {TEXT_LIMIT >> 20} MB.")
            separator = ","
        write("{}" if separator == "{" else "}")

    def value(self, tag: int, element: Element, dataset: Item, path: str, encodings: tuple[str, ...]) -> str:
        vr, offset, length, _ = element
        if tag in PIXEL_TAGS or length == UNDEFINED or length > VALUE_LIMIT:
            return f'{{"vr":"{vr}",{BULK}{path}"}}'
        if length == 0:
            return f'{{"vr":"{vr}"}}'
        if vr in _BINARY:
            if length > INLINE_LIMIT:
                return f'{{"vr":"{vr}",{BULK}{path}"}}'
            return self.inline(vr, offset, length)
        if vr in _NUMERIC:
            return self.numbers(vr, offset, length, dataset.order, path)
        raw = bytes(self.buffer[offset : offset + length])
        if vr == "AT":
            values = [f'"{a:04X}{b:04X}"' for a, b in struct.iter_unpack(dataset.order + "HH", raw[: length // 4 * 4])]
            return f'{{"vr":"AT","Value":[{",".join(values)}]}}'
        if tag == 0x00080005:
            return '{"vr":"CS","Value":["ISO_IR 192"]}'
        return _known_text(vr, raw, encodings) if length <= SHORT else _text(vr, raw, encodings)

    def inline(self, vr: str, offset: int, length: int) -> str:
        data = base64.b64encode(bytes(self.buffer[offset : offset + length])).decode("ascii")
        return f'{{"vr":"{vr}","InlineBinary":"{data}"}}'

    def numbers(self, vr: str, offset: int, length: int, order: str, path: str) -> str:
        code = _NUMERIC[vr]
        size = struct.calcsize("<" + code)
        if length % size:
            if length > INLINE_LIMIT:
                return f'{{"vr":"UN",{BULK}{path}"}}'
            return self.inline("UN", offset, length)
        found = struct.unpack_from(f"{order}{length // size}{code}", self.buffer, offset)
        if code in "fd":
            values = [repr(value) if math.isfinite(value) else "null" for value in found]
        else:
            values = [str(value) for value in found]
        return f'{{"vr":"{vr}","Value":[{",".join(values)}]}}'


def _text(vr: str, raw: bytes, encodings: tuple[str, ...]) -> str:
    if vr in _CHARSET_TEXT or vr == "PN":
        text = decode(raw, encodings, name=vr == "PN")
    else:
        text = raw.decode("latin-1").rstrip(" \0")
    if not text:
        return f'{{"vr":"{vr}"}}'
    parts = [text] if vr in _SINGLE else text.split("\\")
    if vr == "PN":
        values = [_person_name(part) for part in parts]
    elif vr in ("DS", "IS"):
        values = [_number_text(part) for part in parts]
    else:
        values = [quoted(part.rstrip(" \0")) if part.strip(" \0") else "null" for part in parts]
    return f'{{"vr":"{vr}","Value":[{",".join(values)}]}}'


_known_text = lru_cache(maxsize=8192)(_text)


def _person_name(part: str) -> str:
    groups = part.rstrip(" \0").split("=")
    named = zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False)
    fields = [f'"{name}":{quoted(group)}' for name, group in named if group]
    return "{" + ",".join(fields) + "}" if fields else "null"


def _number_text(part: str) -> str:
    part = part.strip(" \0")
    if not part:
        return "null"
    if len(part) > 64:
        return quoted(part)
    if _NUMBER.match(part) and math.isfinite(float(part)):
        return part
    if _LOOSE.match(part):
        value = float(part)
        if math.isfinite(value):
            return str(int(part)) if part.lstrip("+-").isdigit() else repr(value)
    return quoted(part)
