"""Comparing two methods on the same cases.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837 (areas under the curve); McNemar, Psychometrika
1947;12:153, in its exact form (shares); Efron and Tibshirani 1993, ch. 14.3, over patients (differences of means).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from inference.evaluation.statistics.bootstrap import RESAMPLES, bootstrap_mean
from inference.evaluation.statistics.interval import CONFIDENCE
from inference.evaluation.statistics.roc import auc, delong_covariance


@dataclass(frozen=True)
class Comparison:
    """estimate: first minus second, with its interval. p: two-sided, of no difference; None where nothing varies."""

    estimate: float
    lower: float | None
    upper: float | None
    p: float | None
    n: int
    method: str
    confidence: float = CONFIDENCE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def delong_test(
    truth: Sequence[bool | int], a: Sequence[float], b: Sequence[float], *, confidence: float = CONFIDENCE
) -> Comparison:
    """Difference of the areas of two scores of the same cases.

    Without interval and p where the difference has no variance, as between scores that order the cases alike.
    Raises `ValueError` unless there are two cases of each class.
    """
    difference, covariance = auc(truth, a) - auc(truth, b), delong_covariance(truth, [a, b])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-15:
        return Comparison(difference, None, None, None, len(truth), "DeLong, paired: no variance", confidence)
    error = math.sqrt(variance)
    half = float(norm.ppf(1 - (1 - confidence) / 2)) * error
    p = float(2 * norm.sf(abs(difference) / error))
    return Comparison(difference, difference - half, difference + half, p, len(truth), "DeLong, paired", confidence)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p: only_a cases are right by the first method alone, only_b by the second alone."""
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def accuracy_test(
    right_a: Sequence[bool],
    right_b: Sequence[bool],
    patients: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Difference of the shares of right answers on the same cases: interval by bootstrap over patients, p by McNemar.

    McNemar's test takes cases as independent. Without an interval where every case has the same difference. Raises
    `ValueError` without cases or where the lengths differ.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} answers")
    found = bootstrap_mean(
        a.astype(float) - b.astype(float), patients=patients, resamples=resamples, seed=seed, method="percentile"
    )
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    p = mcnemar(only_a, only_b)
    if only_a + only_b in (0, len(a)) and not (only_a and only_b):  # the same difference in every case
        return Comparison(found.estimate, None, None, p, len(a), f"{found.method}: no variance; McNemar, exact")
    return Comparison(found.estimate, found.lower, found.upper, p, len(a), f"{found.method}; McNemar, exact")


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for so many comparisons. Holm, Scand J Stat 1979;6:65."""
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    made, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        made[index] = largest
    return made
