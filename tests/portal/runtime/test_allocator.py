"""Memory that is freed and taken again."""

from __future__ import annotations

import resource
import sys

import numpy as np
import psutil
import pytest

from portal.runtime.allocator import memory_kept

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="The GNU C library is on Linux alone.")
BYTES = 48 * 2**20


def faults_of_taking_it_again(times: int = 6) -> int:
    """How many pages the kernel had to hand out."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(BYTES, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_inside_the_block_freed_memory_is_used_again_without_the_kernel():
    outside = faults_of_taking_it_again()
    with memory_kept():
        faults_of_taking_it_again(1)
        inside = faults_of_taking_it_again()
    assert inside < 0.1 * outside
    assert faults_of_taking_it_again() > 0.5 * outside  # as before


def test_the_end_of_the_block_gives_it_back():
    process = psutil.Process()
    with memory_kept():
        arrays = [np.ones(BYTES, dtype=np.uint8) for _ in range(4)]
        del arrays
        held = process.memory_info().rss
    assert process.memory_info().rss < held - 3 * BYTES
