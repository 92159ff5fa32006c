"""Assignment: every case read as often as asked, loads equal, orders random but repeatable."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.annotation.assignment import assign, order, takers


@given(cases=st.integers(0, 60), readers=st.integers(1, 7), overlap=st.integers(1, 7), seed=st.integers(0, 1000))
def test_every_case_has_its_readers_and_loads_are_equal(cases, readers, overlap, seed):
    numbers, people = list(range(100, 100 + cases)), list(range(1, readers + 1))
    if overlap > readers:
        with pytest.raises(ValueError, match="need as many readers"):
            assign(numbers, people, overlap, seed)
        return
    pairs = assign(numbers, people, overlap, seed)
    assert len(set(pairs)) == len(pairs) == cases * overlap
    assert Counter(case for case, _ in pairs) == dict.fromkeys(numbers, overlap) if cases else pairs == []
    loads = Counter(dict.fromkeys(people, 0)) + Counter(reader for _, reader in pairs)
    counts = [loads[reader] for reader in people]
    assert max(counts) - min(counts) <= 1


def test_pairs_of_readers_mix():
    pairs = assign(list(range(60)), [1, 2, 3, 4], 2, seed=3)
    readers = {case: tuple(r for c, r in pairs if c == case) for case in range(60)}
    assert len({tuple(sorted(pair)) for pair in readers.values()}) == 6


def test_same_seed_same_assignment_other_seed_another():
    cases = list(range(40))
    assert assign(cases, [1, 2, 3], 2, 7) == assign(cases, [1, 2, 3], 2, 7)
    assert assign(cases, [1, 2, 3], 2, 7) != assign(cases, [1, 2, 3], 2, 8)


def test_each_reader_has_an_order_of_their_own():
    cases = list(range(30))
    first, second = order(cases, 1, seed=5), order(cases, 2, seed=5)
    assert sorted(first) == sorted(second) == cases
    assert first != second
    assert first == order(cases, 1, seed=5)


def test_takers_are_those_with_the_least_to_do():
    assert takers({1: 5, 2: 0, 3: 2, 4: 9}, excluded={2}, count=2) == [3, 1]
    assert takers({1: 5}, excluded={1}, count=1) == []
