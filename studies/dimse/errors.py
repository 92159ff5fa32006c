"""What can go wrong between us and another imaging system, in words that a user can act on."""

from __future__ import annotations


class RemoteError(Exception):
    """`cause` and `next_step` are for people; neither carries a patient's identity."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step


class Unreachable(RemoteError):
    """The connection could not be made, broke or fell silent: another attempt may help."""


class RemoteRefused(RemoteError):
    """The remote understood and said no."""


class Incomplete(RemoteRefused):
    """Some objects of what was asked for could not be sent; other series may come whole."""


class NodeError(RemoteError):
    """A node that cannot be written down like this."""
