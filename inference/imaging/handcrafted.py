"""Handcrafted features of an image for the classical baselines: intensities, edges, texture. Pure arrays.

Histogram and moments of the values; histogram of oriented gradients over a grid (Dalal and Triggs, CVPR 2005); uniform
local binary patterns (Ojala et al., IEEE TPAMI 2002); contrast, correlation, energy, homogeneity and entropy of the
grey-level co-occurrence (Haralick et al., IEEE SMC 1973) at two distances.
"""

from __future__ import annotations

import numpy as np

BINS, GRID, ORIENTATIONS, LEVELS = 16, 4, 8, 16
OFFSETS = tuple((d * y, d * x) for d in (1, 4) for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)))


def features(image: np.ndarray) -> np.ndarray:
    """float64 vector for an image [z, y, x]; of a volume the mean over its slices."""
    return np.mean([_of_slice(np.asarray(part, dtype=np.float64)) for part in image], axis=0)


def _of_slice(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [1, 99])
    scaled = np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros_like(image)
    return np.concatenate(
        [_moments(scaled), _histogram(scaled), gradients(scaled), patterns(scaled), co_occurrence(scaled)]
    )


def _moments(image: np.ndarray) -> np.ndarray:
    centred = image - image.mean()
    deviation = image.std() or 1.0
    return np.array([image.mean(), image.std(), (centred**3).mean() / deviation**3, (centred**4).mean() / deviation**4])


def _histogram(image: np.ndarray) -> np.ndarray:
    return np.histogram(image, bins=BINS, range=(0, 1))[0] / image.size


def gradients(image: np.ndarray) -> np.ndarray:
    """[GRID · GRID · ORIENTATIONS]: shares of edge strength by direction, in each cell of a grid."""
    dy, dx = np.gradient(image)
    strength, angle = np.hypot(dy, dx), np.arctan2(dy, dx) % np.pi
    bins = np.minimum((angle / np.pi * ORIENTATIONS).astype(int), ORIENTATIONS - 1)
    found = []
    for rows in np.array_split(np.arange(image.shape[0]), GRID):
        for columns in np.array_split(np.arange(image.shape[1]), GRID):
            cell = np.ix_(rows, columns)
            counts = np.bincount(bins[cell].ravel(), weights=strength[cell].ravel(), minlength=ORIENTATIONS)
            found.append(counts / (np.linalg.norm(counts) + 1e-9))
    return np.concatenate(found)


def patterns(image: np.ndarray) -> np.ndarray:
    """[10]: shares of the rotation-invariant uniform patterns of the eight neighbours."""
    centre = image[1:-1, 1:-1]
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    shape = centre.shape
    bits = np.stack([image[y : y + shape[0], x : x + shape[1]] >= centre for y, x in ring])
    changes = (bits != np.roll(bits, 1, axis=0)).sum(axis=0)
    code = np.where(changes <= 2, bits.sum(axis=0), 9)
    return np.bincount(code.ravel(), minlength=10) / code.size


def co_occurrence(image: np.ndarray) -> np.ndarray:
    """[5 · offsets]: contrast, correlation, energy, homogeneity, entropy of each offset."""
    level = np.minimum((image * LEVELS).astype(int), LEVELS - 1)
    i, j = np.indices((LEVELS, LEVELS))
    found = []
    for dy, dx in OFFSETS:
        one = level[: level.shape[0] - dy, max(0, -dx) : level.shape[1] - max(0, dx)]
        other = level[dy:, max(0, dx) : level.shape[1] - max(0, -dx)]
        pairs = np.bincount((one * LEVELS + other).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS)
        p = (pairs + pairs.T) / (2 * pairs.sum())
        mean = (i * p).sum()
        variance = ((i - mean) ** 2 * p).sum()
        correlation = ((i - mean) * (j - mean) * p).sum() / variance if variance > 0 else 1.0
        entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
        found.append([((i - j) ** 2 * p).sum(), correlation, (p**2).sum(), (p / (1 + np.abs(i - j))).sum(), entropy])
    return np.concatenate(found)
