"""A figure with its uncertainty, as it is stored, shown and printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """estimate with its confidence interval; n says of what there are so many (`unit`)."""

    estimate: float
    lower: float | None
    upper: float | None
    n: int
    method: str
    unit: str = "cases"
    confidence: float = CONFIDENCE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def undefined(reason: str, n: int = 0) -> dict[str, Any]:
    """What stands in place of a figure that does not exist."""
    return {"estimate": None, "lower": None, "upper": None, "n": n, "reason": reason}
