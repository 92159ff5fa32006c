"""Why something cannot leave the archive, in words that a manager can act on; never the identifying value itself."""

from __future__ import annotations


class DeidError(Exception):
    def __init__(self, code: str, cause: str, next_step: str = ""):
        super().__init__(f"{cause} {next_step}".strip())
        self.code, self.cause, self.next_step = code, cause, next_step
