"""How much memory a piece of work takes at its peak, measured in a forked process."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.forking import fork, wait


@dataclass(frozen=True)
class Cost:
    """`grown`: MB of resident memory above where the work began."""

    grown: float
    seconds: float
    result: Any


def cost(work: Callable[[], Any]) -> Cost:
    """Run `work` in a child; its result must be JSON."""
    out, into = os.pipe()

    def measured() -> None:
        before, began = peak(), time.monotonic()
        result = work()
        os.write(into, json.dumps([peak() - before, time.monotonic() - began, result]).encode())

    pid = fork(measured)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        data = stream.read()
    wait(pid)
    assert data, "the child failed, see its traceback"
    return Cost(*json.loads(data))


def peak() -> float:
    """The most resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB; a fork starts at what its parent holds
