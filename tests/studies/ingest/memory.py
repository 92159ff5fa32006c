"""How much memory a piece of work takes at its peak, measured in a forked process."""

from __future__ import annotations

import json
import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import connection


@dataclass(frozen=True)
class Cost:
    """`grown`: MB of resident memory above where the work began."""

    grown: float
    seconds: float
    result: Any


def cost(work: Callable[[], Any]) -> Cost:
    """Run `work` in a child; its result must be JSON. The parent gives up its database connection first."""
    connection.close()
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        try:
            before, began = _peak(), time.monotonic()
            result = work()
            answer = [(_peak() - before) / 1024, time.monotonic() - began, result]
            os.write(into, json.dumps(answer).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    assert data, "the child failed, see its traceback"
    return Cost(*json.loads(data))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB; a fork starts at what its parent holds
