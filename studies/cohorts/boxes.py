"""Boxes and points of a reference standard: what `ReferenceLabel.values["boxes"]` may hold, and a table of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from typing import Any

from studies.cohorts.errors import CohortError


def check(labels: Iterable[Mapping[str, Any]], cases: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """cases: name and values of each. Raises `CohortError` (`boxes`) for the first box that cannot be used."""
    names = {label["name"].casefold() for label in labels}
    for case, values in cases:
        boxes = values.get("boxes")
        if not isinstance(boxes, list):
            raise _wrong(case, "it has no list of boxes; one without a lesion has an empty list")
        for box in boxes:
            if not isinstance(box, Mapping) or str(box.get("label", "")).casefold() not in names:
                raise _wrong(case, "a box has none of the labels of the reference standard")
            if not _is_place(box.get("corners")):
                raise _wrong(case, "the corners of a box must be two points of three numbers (x, y, z) in LPS mm")


def _is_place(corners: Any) -> bool:
    return (
        isinstance(corners, list)
        and len(corners) == 2
        and all(isinstance(point, list) and len(point) == 3 for point in corners)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for point in corners
            for value in point
        )
    )


def _wrong(case: str, what: str) -> CohortError:
    return CohortError("boxes", f"Case {case}: {what}.", "Correct it and create the reference standard again.")


PLACE, SIZE = ("x", "y", "z"), ("size_x", "size_y", "size_z")


def read_table(lines: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Case → its boxes, from CSV with the columns case, label, x, y, z and, of boxes, size_x, size_y, size_z.

    x, y, z: the middle in LPS mm; size: mm along these axes, left out or 0 for a point. A row without a label says that
    the case has no lesion. Raises `CohortError` (`boxes`) that names the row.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    reader = csv.DictReader(lines)
    missing = {"case", "label", *PLACE} - set(reader.fieldnames or ())
    if missing:
        raise CohortError(
            "boxes", f"The table has no column {', '.join(sorted(missing))}.", "Name the columns in the first row."
        )
    for number, row in enumerate(reader, start=2):
        case, label = (row["case"] or "").strip(), (row["label"] or "").strip()
        if not case:
            raise _bad_row(number, "it names no case")
        boxes = found.setdefault(case, [])
        if not label:
            continue
        middle = [_number(row[key], number, key) for key in PLACE]
        half = [_number(row.get(key) or "0", number, key) / 2 for key in SIZE]
        if min(half) < 0:
            raise _bad_row(
                number, f"{SIZE[half.index(min(half))]} is below 0; a size is in mm, 0 or left out for a point"
            )
        corners = [[m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1)]
        boxes.append({"label": label, "corners": corners})
    return found


def _number(text: str | None, row: int, column: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _bad_row(row, f"{column} is {text!r}, not a number with a decimal point")
    return value


def _bad_row(row: int, what: str) -> CohortError:
    return CohortError("boxes", f"Row {row}: {what}.", "Correct the table; nothing was imported.")
