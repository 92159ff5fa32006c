"""Which action a profile takes on an attribute: PS3.15 Annex E, table E.1-1, with the options that were chosen.

`table_e1_1.csv` holds the table: an action of the Basic Application Level Confidentiality Profile for each attribute
and, by option, K (keep) or C (clean).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from pydicom.tag import BaseTag

from studies.deid.errors import DeidError

TABLE = Path(__file__).with_name("table_e1_1.csv")


class Option(StrEnum):
    """Named as on the command line; see `LABELS` for the words of the standard."""

    SHIFT_DATES = "shift-dates"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    CLEAN_PIXELS = "clean-pixels"
    RETAIN_PATIENT = "retain-patient"
    RETAIN_DEVICE = "retain-device"
    RETAIN_INSTITUTION = "retain-institution"
    RETAIN_UIDS = "retain-uids"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"


# Option → column of the table, code of CID 7050 and its meaning (PS3.16).
COLUMN = {
    Option.SHIFT_DATES: "dates_shifted",
    Option.CLEAN_DESCRIPTORS: "descriptors",
    Option.RETAIN_PATIENT: "patient",
    Option.RETAIN_DEVICE: "device",
    Option.RETAIN_INSTITUTION: "institution",
    Option.RETAIN_UIDS: "uids",
}
BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
CODES = {
    Option.CLEAN_PIXELS: ("113101", "Clean Pixel Data Option"),
    Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.SHIFT_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.RETAIN_PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
    Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
    Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
}
# Where the table leaves a choice that depends on the object's definition, the action that keeps every object valid.
_CHOICE = {"X/Z": "Z", "X/D": "D", "X/Z/D": "D", "Z/D": "D", "X/Z/U": "U"}


@cache
def table() -> dict[str, dict[str, str]]:
    """Tag as eight hexadecimal digits (`50xxxxxx`, `60xx3000` for repeating groups) → columns."""
    with TABLE.open(newline="") as file:
        return {row["tag"]: row for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Profile:
    options: frozenset[Option] = frozenset()
    remove: frozenset[int] = frozenset()  # further attributes to take out

    @classmethod
    def parse(cls, text: str, remove: Iterable[int] = ()) -> Profile:
        """`basic` or `basic,shift-dates,…`. Raises `DeidError` (`profile`)."""
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        if words[:1] == ["basic"]:
            words = words[1:]
        unknown = [word for word in words if word not in set(Option)]
        if unknown:
            raise DeidError(
                "profile", f"The profile has no option “{unknown[0]}”.", f"There are: {', '.join(sorted(Option))}."
            )
        return cls(frozenset(Option(word) for word in words), frozenset(remove))

    def __str__(self) -> str:
        return ",".join(["basic", *(option.value for option in Option if option in self.options)])

    def __contains__(self, option: Option) -> bool:
        return option in self.options

    def action(self, tag: BaseTag) -> str:
        """X remove, Z empty, D dummy, U other UID, K keep, C clean; "" where the table does not name the attribute."""
        if int(tag) in self.remove:
            return "X"
        row = _row(tag)
        if row is None:
            return ""
        chosen = {row[COLUMN[option]] for option in self.options if option in COLUMN}
        if "K" in chosen:
            return "K"
        return "C" if "C" in chosen else self.basic(tag)

    def basic(self, tag: BaseTag) -> str:
        """The action of the profile without options."""
        row = _row(tag)
        return "" if row is None else _CHOICE.get(row["basic"], row["basic"])

    def codes(self) -> list[tuple[str, str]]:
        return [BASIC_CODE, *(CODES[option] for option in Option if option in self.options)]


def _row(tag: BaseTag) -> dict[str, str] | None:
    if tag.group >> 8 == 0x50:
        return table()["50xxxxxx"]
    if tag.group >> 8 == 0x60:
        return table().get(f"60xx{tag.element:04X}")
    return table().get(f"{int(tag):08X}")
