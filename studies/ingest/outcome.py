"""What became of one file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from studies.models import Instance


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
    """A file that is not let in. `keep`: its bytes are worth a place in the quarantine."""

    def __init__(self, code: str, reason: str, *, keep: bool = True) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.keep = keep
