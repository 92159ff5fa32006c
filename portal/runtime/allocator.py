"""How the C library hands memory back to the kernel while this process computes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt's names, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM, _DEFAULT_MMAPS = 128 * 1024, 65_536
_NEVER = 2**31 - 1


@contextmanager
def memory_kept() -> Iterator[None]:
    """Freed memory stays with this process until the end of the block.

    Every step of a training frees and takes the same arrays again. By default each of them goes to the kernel and comes
    back as pages that have to be cleared first, a tenth of a small network's time. Without the GNU C library nothing
    changes.
    """
    library = _gnu()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAPS)
        library.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM)
        library.malloc_trim(0)


def _gnu() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
