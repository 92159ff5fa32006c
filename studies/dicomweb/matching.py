"""Query keys of QIDO-RS (PS3.18 8.3.4, PS3.4 C.2.2.2): what was asked, and how it matches rows and data sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from django.db.models import CharField, Lookup, Q
from django.http import QueryDict
from pydicom.datadict import keyword_dict

from studies.dicom.vr import vr_of
from studies.dicomweb.problems import Problem

RESERVED = frozenset({"limit", "offset", "fuzzymatching", "includefield", "accept", "charset", "orderby"})
MAX_LIMIT = 10_000
_TAG = re.compile(r"[0-9A-Fa-f]{8}\Z")
_DATE = re.compile(r"([0-9]{8})?(-)?([0-9]{8})?\Z")
_LISTS = frozenset({"UI", "CS", "IS", "US", "UL"})


@CharField.register_lookup
class ILike(Lookup):
    """`column ILIKE pattern`, which trigram indexes answer."""

    lookup_name = "ilike"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        left, left_values = self.process_lhs(compiler, connection)
        right, right_values = self.process_rhs(compiler, connection)
        return f"{left} ILIKE {right}", (*left_values, *right_values)

    def get_prep_lookup(self) -> Any:
        return self.rhs


@dataclass(frozen=True, slots=True)
class Key:
    """One attribute to match: its path of tags (more than one inside sequences) and the value as sent."""

    path: tuple[int, ...]
    value: str

    @property
    def vr(self) -> str:
        return vr_of(self.path[-1]).split(" ")[0]


@dataclass(frozen=True, slots=True)
class Query:
    keys: tuple[Key, ...]
    include: frozenset[int]
    include_all: bool
    limit: int | None
    offset: int
    fuzzy: bool


def tag_path(name: str) -> tuple[int, ...]:
    """Tags of an attribute given as keyword or hexadecimal tag, with dots into sequences."""
    path = []
    for word in name.split("."):
        if _TAG.match(word):
            path.append(int(word, 16))
        elif word in keyword_dict:
            path.append(keyword_dict[word])
        else:
            raise Problem(400, f"“{name[:100]}” is neither a DICOM keyword nor a tag of eight hexadecimal digits.")
    return tuple(path)


def parse(parameters: QueryDict) -> Query:
    """Read a query string. Raises `Problem` 400."""
    keys = [
        Key(tag_path(name), value.strip())
        for name, values in parameters.lists()
        if name.lower() not in RESERVED
        for value in [",".join(values) if len(set(values)) > 1 else values[-1]]
    ]
    include: set[int] = set()
    include_all = False
    for value in parameters.getlist("includefield"):
        for name in filter(None, (word.strip() for word in value.split(","))):
            if name.lower() == "all":
                include_all = True
            else:
                include.add(tag_path(name)[0])
    include |= {key.path[0] for key in keys}
    keys = [key for key in keys if key.value.strip("*") or "?" in key.value]  # the others match everything
    for key in keys:
        if len(re.findall(r"\*+", key.value)) > 8 or len(key.value) > 8192:
            raise Problem(400, "A value is too long or has too many wildcards.")
    fuzzy = parameters.get("fuzzymatching", "").lower() == "true"
    limit = _count(parameters, "limit")
    return Query(tuple(keys), frozenset(include), include_all, limit, _count(parameters, "offset") or 0, fuzzy)


def _count(parameters: QueryDict, name: str) -> int | None:
    text = parameters.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Problem(400, f"{name} must be a whole number.")
    return int(text)


def words_of(key: Key) -> list[str]:
    """The alternatives of a list value; one value for attributes that take none."""
    if key.vr in _LISTS:
        return [word.strip() for word in re.split(r"[,\\]", key.value) if word.strip()]
    return [key.value]


def has_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%").replace("?", "_")


def as_q(key: Key, column: str, *, fuzzy: bool = False, is_date: bool = False, is_array: bool = False) -> Q:
    """The condition on a column that repeats the attribute."""
    if is_date:
        low, high = date_range(key.value)
        bounds = {}
        if low is not None:
            bounds[f"{column}__gte"] = low
        if high is not None:
            bounds[f"{column}__lte"] = high
        return Q(**bounds)
    if key.vr == "TM" and "-" in key.value:
        low_time, _, high_time = key.value.partition("-")
        condition = Q()
        if low_time:
            condition &= Q(**{f"{column}__gte": low_time})
        if high_time:
            condition &= Q(**{f"{column}__lte": high_time + "~"})
        return condition
    if key.vr == "PN":
        return _name_q(key.value, column, fuzzy)
    condition = Q()
    for word in words_of(key):
        if is_array:
            condition |= Q(**{f"{column}__contains": [word.upper()]})
        elif key.vr in ("IS", "US", "UL"):
            if not re.fullmatch(r"-?[0-9]{1,9}", word):
                raise Problem(400, f"“{word[:50]}” is not a whole number.")
            condition |= Q(**{column: int(word)})
        elif key.vr != "UI" and has_wildcard(word):
            condition |= Q(**{f"{column}__ilike": _like(word)})
        else:
            condition |= Q(**{column: word})
    return condition


def _name_q(value: str, column: str, fuzzy: bool) -> Q:
    if fuzzy and not has_wildcard(value.rstrip("*")):
        condition = Q()
        for word in name_words(value):
            condition &= Q(**{f"{column}__iregex": rf"(^|[\s^=,.-]){re.escape(word)}"})
        return condition
    if has_wildcard(value):
        return Q(**{f"{column}__ilike": _like(value)})
    exact = _like(value.rstrip("^"))
    return (
        Q(**{f"{column}__ilike": exact})
        | Q(**{f"{column}__ilike": exact + "^%"})
        | Q(**{f"{column}__ilike": exact + "=%"})
    )


def name_words(value: str) -> list[str]:
    return [word for word in re.split(r"[\s^=,*]+", value) if word]


def date_range(value: str) -> tuple[date | None, date | None]:
    """Both ends of a DA value or range, included."""
    found = _DATE.match(value)
    if found is None or not (found.group(1) or found.group(3)):
        raise Problem(400, f"“{value[:50]}” is not a date (YYYYMMDD) or a range of dates (YYYYMMDD-YYYYMMDD).")
    try:
        first, last = (
            date(int(text[:4]), int(text[4:6]), int(text[6:])) if text else None
            for text in (found.group(1), found.group(3))
        )
    except ValueError as error:
        raise Problem(400, f"“{value[:50]}” holds a day that does not exist.") from error
    return (first, last) if found.group(2) else (first, first)


def matches(dataset: dict[str, Any], key: Key, *, fuzzy: bool = False) -> bool:
    """Whether a DICOM JSON object matches, for attributes that have no column of their own."""
    return _matches(dataset, key.path, key, fuzzy)


def _matches(dataset: dict[str, Any], path: tuple[int, ...], key: Key, fuzzy: bool) -> bool:
    element = dataset.get(f"{path[0]:08X}") or {}
    values = element.get("Value") or []
    if len(path) > 1:
        return any(isinstance(item, dict) and _matches(item, path[1:], key, fuzzy) for item in values)
    return any(_value_matches(value, key, fuzzy) for value in values if value is not None)


def _value_matches(value: Any, key: Key, fuzzy: bool) -> bool:
    vr = key.vr
    if isinstance(value, dict):
        groups = [str(text) for text in value.values()]
        if fuzzy and not has_wildcard(key.value.rstrip("*")):
            words = [word.casefold() for group in groups for word in re.split(r"[\s^=,.-]+", group)]
            return all(any(have.startswith(word.casefold()) for have in words) for word in name_words(key.value))
        whole = "=".join(groups)
        pattern = _regex(key.value if has_wildcard(key.value) else key.value.rstrip("^"))
        return any(pattern.fullmatch(text.rstrip("^")) for text in [whole, *groups])
    text = str(value)
    if vr in ("DA", "TM", "DT") and "-" in key.value:
        low, _, high = key.value.partition("-")
        return (not low or text >= low) and (not high or text <= high + "~")
    for word in words_of(key):
        if vr in ("IS", "DS", "US", "UL", "SS", "SL", "FL", "FD"):
            try:
                if float(text) == float(word):
                    return True
            except ValueError:
                pass
        elif vr != "UI" and has_wildcard(word):
            if _regex(word).fullmatch(text):
                return True
        elif text == word:
            return True
    return False


@lru_cache(maxsize=200)
def _regex(value: str) -> re.Pattern[str]:
    """The pattern of a value with wildcards. What follows a `*` is taken where it first fits, without going back, so
    that matching takes time in proportion to the text."""
    first, *others = ("".join("." if char == "?" else re.escape(char) for char in part) for part in value.split("*"))
    if others:
        first += "".join(f"(?>.*?{part})" for part in others[:-1] if part) + f".*{others[-1]}"
    return re.compile(first, re.IGNORECASE | re.DOTALL)
