"""Perceptual hash of a picture: 255 bits that stay nearly the same when a picture is saved again, scaled or brightened.

The picture is reduced to 64 × 64 grey values, transformed by a two-dimensional discrete cosine transform (type II,
orthonormal), and each of the 16 × 16 lowest frequencies but the constant one says whether it lies above their median
(Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", 3.2.1, with 16 × 16 for 8 × 8).
Two unrelated pictures differ in about half of the bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.fft import dctn

SIDE = 64  # pixels of the reduced picture
FREQUENCIES = 16  # along each axis
BITS = FREQUENCIES * FREQUENCIES - 1
BYTES = 32
# A picture whose reduced grey values (0 … 255) spread less than this shows nothing that could be recognised.
FLATTEST = 1.5
_BLOCK = 512  # rows compared at a time


def fingerprint(picture: np.ndarray) -> bytes | None:
    """32 bytes that describe a picture, or None where it shows nothing.

    picture: uint8, rows × columns or rows × columns × 3 (RGB), at least one pixel.
    """
    reduced = np.asarray(Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    if reduced.std() < FLATTEST:
        return None
    low = dctn(reduced, type=2, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return np.packbits(low > np.median(low)).tobytes()


def distance(one: bytes, other: bytes) -> int:
    """How many of the 255 bits differ; of hashes of several pictures (32 bytes each, as many in both) the largest."""
    if len(one) != len(other) or not one or len(one) % BYTES:
        raise ValueError("Hashes of the same number of pictures can be compared.")
    differ = np.bitwise_count(_bytes([one]) ^ _bytes([other]))
    return int(differ.reshape(-1, BYTES).sum(1, dtype=np.int64).max())


def near(new: Sequence[bytes], known: Sequence[bytes], furthest: int) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) of every pair of new[i] and known[j] that differ in at most `furthest` bits.

    All hashes have the same length.
    """
    if not new or not known:
        return
    against = _bytes(known)
    pictures = against.shape[1] // BYTES
    for start in range(0, len(new), _BLOCK // 8):
        block = _bytes(new[start : start + _BLOCK // 8])
        for at in range(0, len(against), 1 << 14):
            part = against[at : at + (1 << 14)]
            differ = np.bitwise_count(block[:, None, :] ^ part[None, :, :])
            bits = differ.reshape(len(block), len(part), pictures, BYTES).sum(3, dtype=np.int16).max(2)
            for i, j in zip(*np.nonzero(bits <= furthest), strict=True):
                yield start + int(i), at + int(j), int(bits[i, j])


def _bytes(hashes: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)
