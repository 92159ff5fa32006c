"""Agreement between readers on categories, scales and numbers.

Ratings are arrays of shape (cases, readers). Missing ratings are `None` or NaN and are left out pairwise (Cohen) or
per case (Fleiss, Krippendorff). Intervals come from resampling cases with replacement (percentile bootstrap), because
the ratings of one case are dependent whatever the number of readers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Weights = Literal["unweighted", "linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval", "ratio"]
DRAWS = 2000


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its 95 % interval; None where it is undefined (no shared case, or no variation at all)."""

    estimate: float | None
    lower: float | None
    upper: float | None
    n: int
    method: str


@dataclass(frozen=True)
class CohenKappa:
    """Cohen's kappa of two readers with its large-sample standard errors (Fleiss, Cohen and Everitt 1969)."""

    kappa: float | None
    standard_error: float | None
    standard_error_under_chance: float | None
    n: int


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _codes(rows: Sequence[Sequence[Hashable]], categories: Sequence[Hashable] | None) -> tuple[np.ndarray, int]:
    """Ratings as indices into the categories, −1 where missing. Without `categories`: those that occur, sorted."""
    if categories is None:
        categories = sorted({v for row in rows for v in row if not _missing(v)})  # type: ignore[type-var]
    index = {category: i for i, category in enumerate(categories)}
    try:
        codes = [[-1 if _missing(v) else index[v] for v in row] for row in rows]
    except KeyError as unknown:
        raise ValueError(f"the rating {unknown} is not among the categories") from None
    width = len(rows[0]) if len(rows) else 0
    return np.array(codes, dtype=np.int64).reshape(len(rows), width), len(categories)


def agreement_weights(categories: int, weights: Weights) -> np.ndarray:
    """Agreement weights (k, k): 1 on the diagonal; linear 1 − |i−j|/(k−1), quadratic 1 − (i−j)²/(k−1)²."""
    i = np.arange(categories)
    if weights == "unweighted" or categories < 2:
        return np.eye(categories)
    distance = np.abs(i[:, None] - i[None, :]) / (categories - 1)
    return 1 - (distance if weights == "linear" else distance**2)


def _kappa_of(tables: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Kappa of contingency tables (…, k, k); NaN where chance alone gives full agreement."""
    total = tables.sum(axis=(-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = tables / total
        observed = (p * weight).sum(axis=(-2, -1))
        expected = np.einsum("...i,...j,ij->...", p.sum(-1), p.sum(-2), weight)
        kappa = (observed - expected) / (1 - expected)
    return np.where(np.isclose(expected, 1), np.nan, kappa)


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    weights: Weights = "unweighted",
    categories: Sequence[Hashable] | None = None,
) -> CohenKappa:
    """Cohen's (weighted) kappa over the cases that both readers rated.

    `categories` gives the order that linear and quadratic weights need; by default the sorted values that occur.
    """
    codes, k = _codes(list(zip(first, second, strict=True)), categories)
    codes = codes[(codes >= 0).all(axis=1)] if len(codes) else codes
    n = len(codes)
    if n == 0:
        return CohenKappa(None, None, None, 0)
    table = np.zeros((k, k))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    w = agreement_weights(k, weights)
    kappa = float(_kappa_of(table, w))
    if np.isnan(kappa):
        return CohenKappa(None, None, None, n)
    p = table / n
    rows, columns = p.sum(1), p.sum(0)
    expected = float(rows @ w @ columns)
    row_mean, column_mean = w @ columns, w.T @ rows  # average weight per category of either reader
    margin = row_mean[:, None] + column_mean[None, :]
    spread = (p * (w - margin * (1 - kappa)) ** 2).sum() - (kappa - expected * (1 - kappa)) ** 2
    chance = (np.outer(rows, columns) * (w - margin) ** 2).sum() - expected**2
    scale = (1 - expected) * np.sqrt(n)
    return CohenKappa(kappa, float(np.sqrt(max(spread, 0)) / scale), float(np.sqrt(max(chance, 0)) / scale), n)


def _counts(codes: np.ndarray, k: int) -> np.ndarray:
    """How many readers gave each category, (cases, k)."""
    return np.stack([(codes == category).sum(axis=1) for category in range(k)], axis=1).astype(float)


def _fleiss_of(counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Fleiss' kappa for each row of case multiplicities `draws` (B, cases)."""
    raters = counts.sum(axis=1)
    pairs = raters * (raters - 1)
    agreement = (counts * (counts - 1)).sum(axis=1) / pairs
    share = counts / raters[:, None]
    size = draws.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = draws @ agreement / size
        p = draws @ share / size[:, None]
        expected = (p**2).sum(axis=1)
        kappa = (observed - expected) / (1 - expected)
    return np.where(np.isclose(expected, 1), np.nan, kappa)


def fleiss_kappa(
    ratings: Sequence[Sequence[Hashable]], *, categories: Sequence[Hashable] | None = None
) -> float | None:
    """Fleiss' kappa (1971) over the cases with two or more ratings; None where undefined.

    The readers need not be the same for every case. Where their number differs, the shares of a case count equally
    (Gwet 2014, chapter 2), which is Fleiss' own formula when the numbers are equal.
    """
    counts = _rated_twice(ratings, categories)
    if not len(counts):
        return None
    kappa = _fleiss_of(counts, np.ones((1, len(counts))))[0]
    return None if np.isnan(kappa) else float(kappa)


def _rated_twice(ratings: Sequence[Sequence[Hashable]], categories: Sequence[Hashable] | None) -> np.ndarray:
    if not len(ratings):
        return np.zeros((0, 0))
    counts = _counts(*_codes(ratings, categories))
    return counts[counts.sum(axis=1) >= 2]


def krippendorff_alpha(ratings: Sequence[Sequence[float | None]], *, level: Level) -> float | None:
    """Krippendorff's alpha (2011) of ratings (cases, readers) with missing values; None where undefined."""
    values, counts = _value_counts(ratings)
    if not len(counts):
        return None
    alpha = _alpha_of(values, counts, np.ones((1, len(counts))), level)[0]
    return None if np.isnan(alpha) else float(alpha)


def _value_counts(ratings: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(sorted({float(v) for row in ratings for v in row if v is not None and not _missing(v)}))
    if not len(values):
        return values, np.zeros((0, 0))
    return values, _rated_twice(ratings, [float(v) for v in values])


def _alpha_of(values: np.ndarray, counts: np.ndarray, draws: np.ndarray, level: Level) -> np.ndarray:
    raters = counts.sum(axis=1)
    # The coincidence matrix of each case: pairs of ratings, each case weighing as many as it has ratings.
    pairs = counts[:, :, None] * counts[:, None, :]
    k = np.arange(len(values))
    pairs[:, k, k] -= counts
    coincidence = np.tensordot(draws, pairs / (raters - 1)[:, None, None], axes=1)
    frequency = coincidence.sum(axis=2)
    total = frequency.sum(axis=1)
    if level == "ordinal":
        below = np.cumsum(frequency, axis=1)
        middle = below - frequency / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    else:
        gap = values[:, None] - values[None, :]
        if level == "nominal":
            distance = (gap != 0).astype(float)
        elif level == "interval":
            distance = gap**2
        else:
            sums = values[:, None] + values[None, :]
            distance = np.divide(gap, sums, out=np.zeros_like(gap), where=sums != 0) ** 2
        distance = np.broadcast_to(distance, coincidence.shape)
    observed = (coincidence * distance).sum(axis=(1, 2))
    expected = np.einsum("bi,bj,bij->b", frequency, frequency, distance)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected == 0, np.nan, 1 - (total - 1) * observed / expected)


def _resampled(cases: int, draws: int, seed: int) -> np.ndarray:
    """How often each case was drawn, (draws, cases)."""
    return np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(float)


def _with_interval(
    statistic: Callable[[np.ndarray], np.ndarray], cases: int, *, name: str, draws: int, seed: int
) -> Agreement:
    if cases == 0:
        return Agreement(None, None, None, 0, name)
    estimate = float(statistic(np.ones((1, cases)))[0])
    if np.isnan(estimate):
        return Agreement(None, None, None, cases, name)
    values = statistic(_resampled(cases, draws, seed))
    values = values[~np.isnan(values)]
    method = f"{name}, bootstrap over cases, {draws:,} draws"
    if cases < 2 or not len(values):
        return Agreement(estimate, None, None, cases, name)
    lower, upper = np.quantile(values, [0.025, 0.975])
    return Agreement(estimate, float(lower), float(upper), cases, method)


def cohen_agreement(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    weights: Weights = "unweighted",
    categories: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 1,
) -> Agreement:
    """Cohen's kappa of two readers with a bootstrap interval; n is the number of cases that both rated."""
    codes, k = _codes(list(zip(first, second, strict=True)), categories)
    codes = codes[(codes >= 0).all(axis=1)] if len(codes) else codes
    cells = np.eye(k * k)[codes[:, 0] * k + codes[:, 1]] if len(codes) else np.zeros((0, k * k))
    w = agreement_weights(k, weights)
    name = "Cohen κ" if weights == "unweighted" else f"Cohen κ, {weights} weights"
    return _with_interval(
        lambda draws: _kappa_of((draws @ cells).reshape(-1, k, k), w), len(codes), name=name, draws=draws, seed=seed
    )


def fleiss_agreement(
    ratings: Sequence[Sequence[Hashable]],
    *,
    categories: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 1,
) -> Agreement:
    """Fleiss' kappa with a bootstrap interval; n is the number of cases with two or more ratings."""
    counts = _rated_twice(ratings, categories)
    return _with_interval(lambda draws: _fleiss_of(counts, draws), len(counts), name="Fleiss κ", draws=draws, seed=seed)


def krippendorff_agreement(
    ratings: Sequence[Sequence[float | None]], *, level: Level, draws: int = DRAWS, seed: int = 1
) -> Agreement:
    """Krippendorff's alpha with a bootstrap interval; n is the number of cases with two or more ratings.

    Draws are taken in portions, as a portion holds a coincidence matrix for every draw.
    """
    values, counts = _value_counts(ratings)

    def statistic(multiplicities: np.ndarray) -> np.ndarray:
        portion = max(1, 2_000_000 // max(1, len(values) ** 2))
        return np.concatenate(
            [
                _alpha_of(values, counts, multiplicities[i : i + portion], level)
                for i in range(0, len(multiplicities), portion)
            ]
        )

    return _with_interval(statistic, len(counts), name=f"Krippendorff α, {level}", draws=draws, seed=seed)


def mean_agreement(values: Sequence[float], *, name: str, draws: int = DRAWS, seed: int = 1) -> Agreement:
    """The mean of one value for each case (for example Dice) with a bootstrap interval over cases."""
    array = np.asarray(values, dtype=float)
    return _with_interval(
        lambda draws: draws @ array / draws.sum(axis=1), len(array), name=name, draws=draws, seed=seed
    )


def median_agreement(values: Sequence[float], *, name: str, draws: int = DRAWS, seed: int = 1) -> Agreement:
    """The median of one value for each read (for example the time taken) with a bootstrap interval."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return Agreement(None, None, None, 0, name)
    estimate = float(np.median(array))
    if len(array) < 2:
        return Agreement(estimate, None, None, 1, name)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(draws, len(array)))
    lower, upper = np.quantile(np.median(array[picks], axis=1), [0.025, 0.975])
    return Agreement(estimate, float(lower), float(upper), len(array), f"{name}, bootstrap, {draws:,} draws")
