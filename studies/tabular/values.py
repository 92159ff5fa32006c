"""What the cells of a column mean: numbers with a dot or a comma, dates in one of three orders, categories.

A column is looked at as a whole, since a single cell such as 03/04/2020 or 1,234 can mean two things. Where all of its
cells can, nothing is guessed: `ambiguous` says so and the user chooses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from studies.tabular.reading import Cell

MISSING = frozenset({"", "na", "n/a", "nan", "null", "#n/a", "n.a.", "<na>"})
MISSING_NUMBER = MISSING | {"-", "–", "—", ".", "?", "none", "missing", "unknown"}
DATE_ORDERS = {"ymd": "year-month-day", "dmy": "day/month/year", "mdy": "month/day/year"}
DECIMAL_MARKS = {".": "dot", ",": "comma"}
_TRUE = frozenset({"1", "true", "yes", "y", "event", "dead", "deceased", "died", "death"})
_FALSE = frozenset({"0", "false", "no", "n", "censored", "alive", "living", "none"})

_SPACES = re.compile(r"(?<=\d)[\s\u00a0\u2009\u202f'’](?=\d{3}(\D|$))")
_PLAIN = re.compile(r"[+-]?\d+([eE][+-]?\d+)?")
_ONE_MARK = re.compile(r"[+-]?(\d*)([.,])(\d*)([eE][+-]?\d+)?")
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}((?:([.,])\d{3})(?:\2\d{3})*)(?:([.,])(\d+))?")
_DATE = re.compile(
    r"(?:(?P<y>\d{4})(?P<s1>[-/.])(?P<m>\d{1,2})(?P=s1)(?P<d>\d{1,2})"
    r"|(?P<basic>(?:19|20)\d{6})"
    r"|(?P<a>\d{1,2})(?P<s2>[-/.])(?P<b>\d{1,2})(?P=s2)(?P<year>\d{2}|\d{4}))"
    r"(?:[T ]+(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)\s*(?P<half>[AaPp][Mm])?\s*Z?)?"
)


class Unreadable(ValueError):
    """A cell that is no value of the column's kind; `code` and `cause` say why."""

    def __init__(self, code: str, cause: str):
        super().__init__(cause)
        self.code = code
        self.cause = cause


@dataclass(frozen=True)
class Convention:
    """How a column is written: `mark` is a decimal mark or an order of dates; `ambiguous` where it cannot be told;
    `mixed` where some cells are written in one way and some in another."""

    mark: str
    ambiguous: bool = False
    mixed: bool = False


def is_missing(cell: Cell, *, number: bool = False) -> bool:
    return cell is None or (isinstance(cell, str) and cell.casefold() in (MISSING_NUMBER if number else MISSING))


def text_of(cell: Cell) -> str:
    """A cell as an identifier or a category: whole numbers without a decimal point."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == datetime.min.time() else cell.isoformat(sep=" ")
    return str(cell).strip()


def decimal_mark(cells: Iterable[Cell], told: str = "", *, commas_elsewhere: bool = False) -> Convention:
    """The decimal mark of a column. `commas_elsewhere`: other columns of the file have decimal commas, so that 1.234
    may be a thousand, too."""
    strong: set[str] = set()
    weak: set[str] = set()
    for cell in cells:
        if isinstance(cell, str) and not is_missing(cell, number=True):
            found, sure = _mark_of(cell)
            if found:
                (strong if sure else weak).add(found)
    if told:
        return Convention(told, mixed=bool(strong - {told}))
    if len(strong) == 2:
        return Convention(".", mixed=True)
    if strong:
        return Convention(strong.pop())
    if "," in weak or (weak and commas_elsewhere):
        return Convention(".", ambiguous=True)
    return Convention(".")


def _mark_of(text: str) -> tuple[str, bool]:
    """The decimal mark that a text speaks for, and whether it can only be that one."""
    plain = _plain(text)
    one = _ONE_MARK.fullmatch(plain)
    if one and (one[1] or one[3]):
        thousands = _GROUPS.fullmatch(plain)
        return one[2], not (thousands and not one[4])
    groups = _GROUPS.fullmatch(plain)
    if groups:
        other = "," if groups[2] == "." else "."
        if groups[3]:
            return groups[3], groups[3] != groups[2]
        return other, True  # 1.234.567 has dots between thousands
    return "", False


def _plain(text: str) -> str:
    return _SPACES.sub("", text.strip().replace("−", "-"))


def number(cell: Cell, mark: str) -> float:
    """A cell as a finite number. Raises `Unreadable` (`not_a_number`, `decimal`)."""
    if isinstance(cell, bool):
        return float(cell)
    if isinstance(cell, int | float):
        if not math.isfinite(cell):
            raise Unreadable("not_a_number", "The number is not finite.")
        return float(cell)
    if isinstance(cell, datetime | date):
        raise Unreadable("not_a_number", "This is a date, not a number.")
    plain = _plain(cell or "")
    if _PLAIN.fullmatch(plain):
        return _finite(plain)
    one = _ONE_MARK.fullmatch(plain)
    if one and (one[1] or one[3]) and one[2] == mark:
        return _finite(plain.replace(",", "."))
    groups = _GROUPS.fullmatch(plain)
    if groups and groups[2] != mark and groups[3] in (None, mark):
        return _finite(plain.replace(groups[2], "").replace(",", "."))
    if one and (one[1] or one[3]):
        raise Unreadable("decimal", f"“{cell}” is written with another decimal mark than the rest of the column.")
    raise Unreadable("not_a_number", f"“{_short(cell)}” is not a number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable("not_a_number", "The number is too large.")
    return value


def date_order(cells: Iterable[Cell], told: str = "") -> Convention:
    """The order of day, month and year in a column. Dots are day first, as wherever dates have dots."""
    strong: set[str] = set()
    open_question = False
    for cell in cells:
        match = _DATE.fullmatch(text_of(cell)) if isinstance(cell, str) and not is_missing(cell, number=True) else None
        if match is None or match["a"] is None:
            continue
        first, second = int(match["a"]), int(match["b"])
        if match["s2"] == "." or first > 12:
            strong.add("dmy")
        elif second > 12:
            strong.add("mdy")
        elif first != second:
            open_question = True
    if told:
        return Convention(told, mixed=bool(strong - {told}) and told in ("dmy", "mdy"))
    if len(strong) == 2:
        return Convention("dmy", mixed=True)
    if strong:
        return Convention(strong.pop())
    return Convention("dmy", ambiguous=True) if open_question else Convention("ymd")


def moment(cell: Cell, order: str) -> datetime:
    """A cell as a date with time, midnight where it has none; in UTC, as the clock showed. Raises `Unreadable`
    (`not_a_date`, `year`, `no_such_day`)."""
    if isinstance(cell, datetime):
        return cell.replace(tzinfo=UTC)
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day, tzinfo=UTC)
    text = text_of(cell)
    match = _DATE.fullmatch(text)
    if match is None:
        raise Unreadable("not_a_date", f"“{_short(text)}” is not a date.")
    if match["basic"]:
        year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
    elif match["y"]:
        year, month, day = int(match["y"]), int(match["m"]), int(match["d"])
    else:
        if len(match["year"]) == 2:
            raise Unreadable("year", f"“{_short(text)}” has a year of two digits; write four.")
        first, second = int(match["a"]), int(match["b"])
        month, day = (first, second) if order == "mdy" else (second, first)
        if order == "ymd" and first != second and max(first, second) <= 12 and match["s2"] != ".":
            raise Unreadable("not_a_date", f"“{_short(text)}” is not written as year-month-day.")
        year = int(match["year"])
    try:
        hour, minute, *seconds = match["time"].split(":") if match["time"] else ("0", "0")
        found = datetime(year, month, day, _hour(int(hour), match["half"]), int(minute), tzinfo=UTC)
        return found.replace(second=int(float(seconds[0]))) if seconds else found
    except ValueError as error:
        raise Unreadable("no_such_day", f"There is no day or time “{_short(text)}”.") from error


def _hour(hour: int, half: str | None) -> int:
    if half is None:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + (12 if half.lower() == "pm" else 0)


def event(cell: Cell) -> bool:
    """Whether what was waited for happened: 1/0, yes/no, dead/alive, event/censored. Raises `Unreadable`."""
    word = text_of(cell).casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Unreadable("not_an_event", f"“{_short(cell)}” says neither that it happened (1, yes) nor that it did not.")


def _short(cell: Cell) -> str:
    text = str(cell)
    return text if len(text) <= 40 else f"{text[:40]}…"
