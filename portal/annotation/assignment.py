"""Who reads which case, in which order. No database: numbers in, numbers out."""

from __future__ import annotations

import random
from collections.abc import Sequence


def assign(cases: Sequence[int], readers: Sequence[int], overlap: int, seed: int) -> list[tuple[int, int]]:
    """Give each case to `overlap` different readers, so that no reader has more than one case more than another.

    Each case goes to the readers with the fewest cases so far, ties broken at random, so that pairs of readers mix.
    Returns (case, reader) in the order of `cases`. ValueError where there are fewer readers than `overlap`.
    """
    if not 1 <= overlap <= len(readers):
        raise ValueError(f"{overlap} reads for each case need as many readers, there are {len(readers)}")
    chance = random.Random(seed)  # noqa: S311 (an order, not a secret)
    load = dict.fromkeys(readers, 0)
    shuffled = list(cases)
    chance.shuffle(shuffled)
    chosen: dict[int, list[int]] = {}
    for case in shuffled:
        by_load = sorted(readers, key=lambda reader: (load[reader], chance.random()))
        chosen[case] = sorted(by_load[:overlap], key=list(readers).index)
        for reader in chosen[case]:
            load[reader] += 1
    return [(case, reader) for case in cases for reader in chosen[case]]


def order(cases: Sequence[int], reader: int, seed: int) -> list[int]:
    """The order in which `reader` meets the cases: random, of its own for each reader, the same at every call."""
    shuffled = list(cases)
    random.Random(f"{seed}:{reader}").shuffle(shuffled)  # noqa: S311
    return shuffled


def takers(loads: dict[int, int], excluded: set[int], count: int) -> list[int]:
    """The `count` readers with the fewest open cases that are not in `excluded`; fewer where there are fewer."""
    free = sorted((reader for reader in loads if reader not in excluded), key=lambda reader: (loads[reader], reader))
    return free[:count]
