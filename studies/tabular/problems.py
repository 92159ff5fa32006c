"""What is wrong with a table, by row and column, in words that a user can act on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """`row` as a spreadsheet counts, the header being row 1 (0: the whole file); `column` is its heading."""

    code: str
    cause: str
    row: int = 0
    column: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class TableError(Exception):
    """A file that cannot be read as a table at all."""

    def __init__(self, code: str, cause: str, row: int = 0, column: str = ""):
        super().__init__(cause)
        self.code = code
        self.cause = cause
        self.problem = Problem(code, cause, row, column)
