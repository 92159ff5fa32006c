"""The structures of a label map and the coded concepts that a SEG object gives them.

A label is `{"number": 1, "name": "Liver", "category": [value, scheme, meaning], "type": [value, scheme, meaning]}`;
category and type may be left out, and `"color": "#rrggbb"` may be added. Source: PS3.16 CID 7150 (categories), CID 7192
and SNOMED CT (types).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from studies.dicom.errors import SegmentationError

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
LESION = Code("52988006", "SCT", "Lesion")
MAX_LABELS = 255
# Told apart over grey images and by colour-blind readers; the same order as in the charts.
COLORS = ("#5acce6", "#d9b726", "#c097fe", "#ea6848", "#2b84f0", "#97cf85", "#ee93a8")

_ABNORMAL = re.compile(r"lesion|tumou?r|nodule|mass|metasta|cyst|h(?:a)?emorrhage|infarct|edema|oedema|opacity", re.I)
_POSITIONS = re.compile(
    r"^(?:left|right|anterior|posterior|superior|inferior|upper|lower|medial|lateral|middle)\s+", re.I
)

Label = Mapping[str, Any]


def checked(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Labels in the order of their numbers, each with a whole number 1–255 and a name.

    Raises `SegmentationError` with code `labels`.
    """
    made = []
    for label in labels:
        number, name = label.get("number"), str(label.get("name") or "").strip()
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_LABELS or not name:
            raise SegmentationError(
                f"A label must have a number from 1 to {MAX_LABELS} and a name; got number {number!r}, name {name!r}.",
                "Write labels as 1=Name,2=Name.",
                code="labels",
            )
        made.append({**label, "number": number, "name": name[:64]})
    made.sort(key=lambda label: label["number"])
    numbers = [label["number"] for label in made]
    names = [label["name"] for label in made]
    if not made or len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
        raise SegmentationError(
            "A label map needs at least one label, and each number and each name only once.",
            "Write labels as 1=Name,2=Name.",
            code="labels",
        )
    return made


def parse(text: str) -> list[dict[str, Any]]:
    """Labels from `1=Anterior hippocampus,2=Posterior hippocampus`. Raises `SegmentationError`."""
    labels = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        number, found, name = part.partition("=")
        if not found or not number.strip().isdigit():
            raise SegmentationError(f"“{part}” is not a label.", "Write labels as 1=Name,2=Name.", code="labels")
        labels.append({"number": int(number), "name": name.strip()})
    return checked(labels)


def category_of(label: Label) -> Code:
    """The Segmented Property Category."""
    if label.get("category"):
        return Code(*label["category"])
    if _ABNORMAL.search(label["name"]):
        return ABNORMAL_STRUCTURE
    return ANATOMICAL_STRUCTURE if named_concept(label["name"]) else TISSUE


def type_of(label: Label) -> Code:
    """The Segmented Property Type: the given code, the SNOMED CT concept of that name, or a generic one."""
    if label.get("type"):
        return Code(*label["type"])
    found = named_concept(label["name"])
    if found:
        return found
    return LESION if _ABNORMAL.search(label["name"]) else TISSUE


def color_of(label: Label) -> tuple[int, int, int]:
    """The recommended display colour (red, green, blue): the given one, or one that goes by the label's number."""
    text = str(label.get("color") or COLORS[(label["number"] - 1) % len(COLORS)])
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def named_concept(name: str) -> Code | None:
    """The SNOMED CT concept that is called like the label, with or without a word for its position."""
    for candidate in (name, _POSITIONS.sub("", name)):
        keyword = "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", candidate))
        if keyword in concepts["SCT"]:
            found: dict[str, tuple[str, list[int]]] = concepts["SCT"][keyword]  # type: ignore[assignment]
            value, entry = next(iter(found.items()))
            return Code(value, "SCT", entry[0])
    return None
