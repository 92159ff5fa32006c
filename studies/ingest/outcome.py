"""What became of one file."""

from __future__ import annotations

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
