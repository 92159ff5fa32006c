"""What can be wrong with cohorts, splits and reference standards, in words that a user can act on."""

from __future__ import annotations


class CohortError(Exception):
    """`code` is for programs, `cause` and `next_step` for people."""

    def __init__(self, code: str, cause: str, next_step: str = ""):
        super().__init__(f"{cause} {next_step}".strip())
        self.code = code
        self.cause = cause
        self.next_step = next_step
