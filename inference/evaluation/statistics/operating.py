"""What a score does at a threshold: positive is a score of at least the threshold.

Sources: Wilson, JASA 1927;22:209 (intervals); Youden, Cancer 1950;3:32 (index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.evaluation.statistics.interval import undefined
from inference.evaluation.statistics.proportions import wilson


@dataclass(frozen=True)
class Point:
    """Counts at a threshold."""

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int

    def figures(self) -> dict[str, dict[str, Any]]:
        """Sensitivity, specificity and predictive values, each with Wilson's interval.

        Predictive values hold for the share of positive cases in these cases only.
        """
        return {
            "sensitivity": _share(self.tp, self.tp + self.fn, "no positive case"),
            "specificity": _share(self.tn, self.tn + self.fp, "no negative case"),
            "ppv": _share(self.tp, self.tp + self.fp, "no case is called positive"),
            "npv": _share(self.tn, self.tn + self.fn, "no case is called negative"),
        }


def at(truth: Sequence[bool | int], scores: Sequence[float], threshold: float) -> Point:
    y, called = np.asarray(truth).astype(bool), np.asarray(scores, dtype=float) >= threshold
    if y.shape != called.shape:
        raise ValueError(f"{len(y)} truths and {len(called)} scores")
    counts = (y & called, ~y & called, y & ~called, ~y & ~called)
    return Point(threshold, *(int(np.count_nonzero(part)) for part in counts))


def curve(truth: Sequence[bool | int], scores: Sequence[float]) -> list[Point]:
    """A point for every score that occurs, the highest first. Raises `ValueError` unless both classes are there."""
    y, s = np.asarray(truth).astype(bool), np.asarray(scores, dtype=float)
    if y.all() or not y.any():
        raise ValueError("The curve needs positive and negative cases")
    order = np.argsort(-s, kind="stable")
    hits, false = np.cumsum(y[order]), np.cumsum(~y[order])
    ends = np.flatnonzero(np.r_[s[order][1:] != s[order][:-1], True])
    positives, negatives = int(y.sum()), int((~y).sum())
    return [
        Point(float(s[order][k]), int(hits[k]), int(false[k]), positives - int(hits[k]), negatives - int(false[k]))
        for k in ends
    ]


def youden(truth: Sequence[bool | int], scores: Sequence[float]) -> Point:
    """The point of the largest sensitivity + specificity; of equals the one of the higher threshold.

    Chosen on the cases that it is reported on, it looks better than it will be on others.
    """
    points = curve(truth, scores)
    return max(points, key=lambda p: p.tp / (p.tp + p.fn) + p.tn / (p.tn + p.fp))


def at_specificity(truth: Sequence[bool | int], scores: Sequence[float], least: float) -> Point | None:
    """The point of the largest sensitivity with at least this specificity; None where every threshold has less."""
    kept = [point for point in curve(truth, scores) if point.tn / (point.tn + point.fp) >= least]
    return max(kept, key=lambda point: point.tp) if kept else None


def _share(successes: int, n: int, reason: str) -> dict[str, Any]:
    return wilson(successes, n).as_dict() if n else undefined(reason)
