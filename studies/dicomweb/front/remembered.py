"""Values that are kept for a short time, and only while no change of access was heard of."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """At most `size` values, the least recently used go first; `seconds` is the age at which one ends."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size = size
        self.seconds = seconds
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[int, float, Value]] = OrderedDict()

    def get(self, key: Hashable, generation: int) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            if found[0] != generation or time.monotonic() >= found[1]:
                del self._values[key]
                return None
            self._values.move_to_end(key)
            return found[2]

    def put(self, key: Hashable, generation: int, value: Value) -> None:
        """`generation` is that from before the value was read, so that a change meanwhile makes it useless."""
        with self._lock:
            self._values[key] = (generation, time.monotonic() + self.seconds, value)
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)
