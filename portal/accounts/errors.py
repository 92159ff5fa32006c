from __future__ import annotations


class AccountError(Exception):
    """A change of users, projects or roles that is not allowed as things stand; words for people."""

    def __init__(self, cause: str, next_step: str = ""):
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.cause} {self.next_step}".strip()
