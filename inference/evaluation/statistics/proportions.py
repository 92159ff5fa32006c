"""Intervals of a proportion. Source: Wilson, JASA 1927;22:209; Newcombe, Stat Med 1998;17:857, method 3."""

from __future__ import annotations

import math

from scipy.stats import norm

from inference.evaluation.statistics.interval import CONFIDENCE, Interval


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE, unit: str = "cases") -> Interval:
    """successes / n with the Wilson score interval. Raises `ValueError` unless 0 ≤ successes ≤ n and n > 0."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z = float(norm.ppf(1 - (1 - confidence) / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bound is 0 or 1 exactly; rounding must not leave it beside.
    lower = 0.0 if successes == 0 else centre - half
    upper = 1.0 if successes == n else centre + half
    return Interval(p, lower, upper, n, "Wilson score", unit, confidence)
