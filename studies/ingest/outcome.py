"""What became of one file."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from studies.models import Instance

if TYPE_CHECKING:
    from studies.ingest.header import Header


class State(StrEnum):
    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`instance` is set unless refused; `code` and `reason` are set when refused. `name` may hold patient identity:
    it is for the person who imported, not for logs."""

    state: State
    name: str
    instance: Instance | None = None
    code: str = ""
    reason: str = ""
    study_instance_uid: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def refused(self) -> bool:
        return self.state == State.REFUSED


NO_SPACE = "no_space"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full; over a quota; over the largest file allowed


def not_read(error: OSError) -> Refused:
    """The refusal of a file that could not be read, or for which this machine has no place."""
    if error.errno in _NO_SPACE:
        return Refused(NO_SPACE, "The portal's disk is full: the file was not stored.", keep=False)
    return Refused("unreadable", f"The file cannot be read: {error.strerror or error}.", keep=False)


class Refused(Exception):
    """A file that is not let in. `keep`: its bytes are worth a place in the quarantine; they are at `path` then.
    `header`: what was read of it, if it could be read."""

    def __init__(self, code: str, reason: str, *, keep: bool = True) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.keep = keep
        self.path: Path | None = None
        self.header: Header | None = None
