"""Boxes and points of a reference standard: what `ReferenceLabel.values["boxes"]` may hold."""

from __future__ import annotations

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
