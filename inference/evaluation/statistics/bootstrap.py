"""Bootstrap intervals of a mean over cases, resampling patients.

Cases of one patient are not independent, so patients are drawn with replacement and bring all their cases. Sources:
Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentile) and 14.3 (BCa); Field and Welsh,
JRSS B 2007;69:369 (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from scipy.stats import norm

from inference.evaluation.statistics.interval import CONFIDENCE, Interval

RESAMPLES = 10_000
RESAMPLES_OF_STATISTIC = 1_000  # of a statistic that is computed anew each time


def bootstrap_mean(
    values: Sequence[float],
    *,
    patients: Sequence[Hashable] | None = None,
    method: str = "bca",
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Mean of `values` with a `percentile` or `bca` interval; the same seed gives the same interval.

    patients: whose each value is; left out, every value is a patient of its own. With one patient only, or where all
    patients have the same mean, there is no interval (`lower` and `upper` are None) or it has no width.
    Raises `ValueError` without values, or where patients and values differ in number.
    """
    array = np.asarray(values, dtype=np.float64)
    owners = list(range(len(array))) if patients is None else list(patients)
    if array.size == 0 or len(owners) != len(array):
        raise ValueError(f"{len(array)} values of {len(owners)} patients")
    if method not in ("percentile", "bca"):
        raise ValueError(f"No bootstrap method {method!r}")
    index: dict[Hashable, int] = {}
    number = np.array([index.setdefault(owner, len(index)) for owner in owners])
    sums = np.bincount(number, weights=array)
    counts = np.bincount(number).astype(np.float64)
    estimate, clusters = float(array.mean()), len(index)
    title = {"percentile": "percentile bootstrap", "bca": "BCa bootstrap"}[method]
    name = f"{title} over {clusters} patients, {resamples} resamples"
    if clusters < 2:
        return Interval(estimate, None, None, len(array), f"{name}: needs at least 2 patients", confidence=confidence)
    means = _resampled_means(sums, counts, resamples, seed)
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(levels, means, estimate, sums, counts)
    lower, upper = np.quantile(means, levels)
    return Interval(estimate, float(lower), float(upper), len(array), name, confidence=confidence)


def bootstrap_over(
    statistics: Callable[[Sequence[int]], Sequence[float]],
    patients: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES_OF_STATISTIC,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Interval]:
    """Percentile intervals of statistics of all cases together, such as an area under a curve.

    statistics: places of cases, which may repeat, to values; not a number where they do not exist, and such resamples
    are left out. patients: whose each case is. The same seed gives the same intervals. With one patient only, or where
    a statistic does not exist in half of the resamples, there is no interval. Raises `ValueError` without cases.
    """
    if not patients:
        raise ValueError("no cases")
    places: dict[Hashable, list[int]] = {}
    for place, owner in enumerate(patients):
        places.setdefault(owner, []).append(place)
    groups = list(places.values())
    estimates = np.asarray(statistics(range(len(patients))), dtype=np.float64)
    name = f"percentile bootstrap over {len(groups)} patients, {resamples} resamples"
    if len(groups) < 2:
        short = f"{name}: needs at least 2 patients"
        return [Interval(float(v), None, None, len(patients), short, confidence=confidence) for v in estimates]
    random = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistics([place for group in random.integers(0, len(groups), len(groups)) for place in groups[group]])
            for _ in range(resamples)
        ],
        dtype=np.float64,
    )
    tail = (1 - confidence) / 2
    made = []
    for value, column in zip(estimates, drawn.T, strict=True):
        known = column[np.isfinite(column)]
        lower, upper = np.quantile(known, [tail, 1 - tail]) if 2 * len(known) >= resamples else (None, None)
        made.append(
            Interval(
                float(value),
                None if lower is None else float(lower),
                None if upper is None else float(upper),
                len(patients),
                name,
                confidence=confidence,
            )
        )
    return made


def _resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    clusters = len(sums)
    means = np.empty(resamples)
    chunk = max(1, 4_000_000 // clusters)
    for start in range(0, resamples, chunk):
        drawn = random.integers(0, clusters, size=(min(chunk, resamples - start), clusters))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def _bca_levels(
    levels: np.ndarray, means: np.ndarray, estimate: float, sums: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    below = (np.count_nonzero(means < estimate) + 0.5 * np.count_nonzero(means == estimate)) / len(means)
    if not 0 < below < 1:
        return levels
    bias = norm.ppf(below)
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    deviations = left_out.mean() - left_out
    spread = (deviations**2).sum()
    acceleration = (deviations**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + norm.ppf(levels)
    return norm.cdf(bias + shifted / (1 - acceleration * shifted))
