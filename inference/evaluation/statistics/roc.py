"""Area under the ROC curve with DeLong's variance.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837; midranks after Sun and Xu, IEEE Signal Process Lett
2014;21:1389. Positive is 1, a higher score means positive, ties count one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata

from inference.evaluation.statistics.interval import CONFIDENCE, Interval


def _placements(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    positive, negative = scores[truth], scores[~truth]
    together = rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    of_positive = (together[:m] - rankdata(positive)) / n
    of_negative = 1 - (together[m:] - rankdata(negative)) / m
    return of_positive, of_negative


def _checked(truth: Sequence[bool | int], scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    y, s = np.asarray(truth).astype(bool), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"{y.shape} truths and {s.shape} scores")
    if y.all() or not y.any():
        raise ValueError("The area under the curve needs positive and negative cases")
    return y, s


def auc(truth: Sequence[bool | int], scores: Sequence[float]) -> float:
    """Area under the empirical ROC curve. Raises `ValueError` unless both classes are there."""
    return float(_placements(*_checked(truth, scores))[0].mean())


def delong_covariance(truth: Sequence[bool | int], scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Covariance matrix of the areas of several scores of the same cases; variances need two cases of each class."""
    placements = [_placements(*_checked(truth, row)) for row in scores]
    positive = np.stack([p for p, _ in placements])
    negative = np.stack([n for _, n in placements])
    if positive.shape[1] < 2 or negative.shape[1] < 2:
        raise ValueError("The variance needs two cases of each class")
    return np.atleast_2d(np.cov(positive)) / positive.shape[1] + np.atleast_2d(np.cov(negative)) / negative.shape[1]


def delong_variance(truth: Sequence[bool | int], scores: Sequence[float]) -> float:
    return float(delong_covariance(truth, [scores])[0, 0])


def delong_interval(
    truth: Sequence[bool | int], scores: Sequence[float], *, confidence: float = CONFIDENCE
) -> Interval:
    """The area with the normal interval of DeLong's variance, cut to [0, 1].

    The interval is None where a class has only one case, and where the variance is 0, as it is for an area of 0 or 1
    and where all scores are equal: that says nothing about how sure the figure is. Raises `ValueError` unless both
    classes are there.
    """
    area, n = auc(truth, scores), len(truth)
    positives = int(np.count_nonzero(np.asarray(truth)))
    if min(positives, n - positives) < 2 or area in (0.0, 1.0):
        return Interval(area, None, None, n, "DeLong: no variance", confidence=confidence)
    variance = delong_variance(truth, scores)
    if variance <= 0:
        return Interval(area, None, None, n, "DeLong: no variance", confidence=confidence)
    half = float(norm.ppf(1 - (1 - confidence) / 2)) * math.sqrt(variance)
    return Interval(area, max(0.0, area - half), min(1.0, area + half), n, "DeLong", confidence=confidence)
