"""Which action a profile takes on an attribute: PS3.15 Annex E, table E.1-1, with the options that were chosen.

The column of the Basic Application Level Confidentiality Profile is that of the package `dicom-anonymizer` (edition
2026c of the standard); `studies.deid.options` holds what options change.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.tag import BaseTag, Tag

from studies.deid.errors import DeidError
from studies.deid.options import BASIC_CODE, CODES, Option, change

EDITION = "2026c"
# Lists of the package → action of the table.
_LISTS = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D", "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
}  # fmt: skip
# Where the table leaves a choice that depends on the object's definition, the action that keeps every object valid.
_CHOICE = {"X/Z": "Z", "X/D": "D", "X/Z/D": "D", "Z/D": "D", "X/Z/U*": "U"}
CURVES, OVERLAYS = 0x50, 0x60  # repeating groups: their first byte
_PRIVATE = re.compile(r"\(?\s*([0-9a-f]{4})\s*,\s*(?:xx|[1-9a-f][0-9a-f])?([0-9a-f]{2})\s*\)?[\s,]+(\S.*)", re.I)


@cache
def table() -> dict[int, str]:
    """Tag → action of the Basic Profile as the table writes it (X/Z/D …), repeating groups left out."""
    lists = importlib.import_module(f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}")
    return {
        entry[0] << 16 | entry[1]: action
        for name, action in _LISTS.items()
        for entry in getattr(lists, name)
        if len(entry) == 2
    }


@dataclass(frozen=True)
class PrivateAttribute:
    """A private attribute that somebody knows to be safe (PS3.15 E.3.10): its group, last byte, and creator."""

    group: int
    element: int
    creator: str

    @classmethod
    def parse(cls, text: str) -> PrivateAttribute:
        """`(0019,xx0C) SIEMENS MR HEADER`. Raises `DeidError` (`private`)."""
        found = _PRIVATE.fullmatch(text.strip())
        if found is None or int(found[1], 16) % 2 == 0:
            raise DeidError(
                "private",
                f"“{text.strip()[:80]}” names no private attribute.",
                "Write its tag and its creator: (0019,xx0C) SIEMENS MR HEADER.",
            )
        return cls(int(found[1], 16), int(found[2], 16), found[3].strip())

    def __str__(self) -> str:
        return f"({self.group:04X},xx{self.element:02X}) {self.creator}"


@dataclass(frozen=True)
class Profile:
    options: frozenset[Option] = frozenset()
    remove: frozenset[int] = frozenset()  # further attributes to take out
    keep_private: frozenset[PrivateAttribute] = frozenset()  # with the option Retain Safe Private only

    @classmethod
    def parse(cls, text: str, remove: Iterable[str] = (), keep_private: Iterable[str] = ()) -> Profile:
        """`basic` or `basic,shift-dates,…`, keywords to remove, private attributes as `PrivateAttribute` reads them.

        Raises `DeidError` (`profile`, `keyword`, `private`).
        """
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        if words[:1] == ["basic"]:
            words = words[1:]
        unknown = [word for word in words if word not in set(Option)]
        if unknown:
            raise DeidError(
                "profile", f"The profile has no option “{unknown[0]}”.", f"There are: {', '.join(sorted(Option))}."
            )
        options = frozenset(Option(word) for word in words)
        if {Option.SHIFT_DATES, Option.RETAIN_DATES} <= options:
            raise DeidError("profile", "Dates cannot be both shifted and kept.", "Choose one of the two options.")
        private = frozenset(PrivateAttribute.parse(text) for text in keep_private if text.strip())
        if private and Option.RETAIN_SAFE_PRIVATE not in options:
            raise DeidError(
                "private",
                "Private attributes are kept by the option Retain Safe Private only.",
                f"Add {Option.RETAIN_SAFE_PRIVATE.value} to the profile.",
            )
        return cls(options, frozenset(_tag(word) for word in remove if word.strip()), private)

    def __str__(self) -> str:
        return ",".join(["basic", *(option.value for option in Option if option in self.options)])

    def __contains__(self, option: Option) -> bool:
        return option in self.options

    def action(self, tag: BaseTag) -> str:
        """X remove, Z empty, D dummy, U other UID, K keep, C clean; "" where the table does not name the attribute."""
        if int(tag) in self.remove:
            return "X"
        basic = self.basic(tag)
        if not basic:
            return ""
        chosen = {change(option, tag) for option in self.options}
        return "K" if "K" in chosen else "C" if "C" in chosen else basic

    def basic(self, tag: BaseTag) -> str:
        """The action of the profile without options."""
        if tag.group >> 8 == CURVES or (tag.group >> 8 == OVERLAYS and tag.element in (0x3000, 0x4000)):
            return "X"
        written = table().get(int(tag), "")
        return _CHOICE.get(written, written)

    def removed_keywords(self) -> list[str]:
        return sorted(keyword_for_tag(tag) for tag in self.remove)

    def codes(self) -> list[tuple[str, str]]:
        """Code values and meanings for (0012,0064), of CID 7050; coding scheme DCM."""
        return [BASIC_CODE, *(CODES[option] for option in Option if option in self.options)]


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword.strip())
    if tag is None:
        raise DeidError("keyword", f"“{keyword.strip()[:80]}” is no DICOM keyword.", "Write it as PatientComments.")
    if Tag(tag).group in (0x0002, 0x7FE0) or keyword.strip() in ("SOPClassUID", "SOPInstanceUID"):
        raise DeidError("keyword", f"Without {keyword.strip()} no object is left.", "Leave it out of the list.")
    return tag
