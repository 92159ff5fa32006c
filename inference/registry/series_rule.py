"""How a model's input finds its series in a study: by words of its description, by contrast, by attributes.

    {"words": ["t1", "mprage|tfl"], "without": ["flair"], "contrast": false, "attributes": {"EchoTime": [0, 20]}}

Every entry of `words` has to stand in SeriesDescription, in one of the spellings that | separates; nothing of `without`
may. `contrast` asks for or against ContrastBolusAgent. An attribute has to hold one of the given texts, or to lie
between two numbers. Upper and lower case are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydicom.datadict import tag_for_keyword

from inference.errors import BundleError

Rule = dict[str, Any]
KEYS = ("words", "without", "contrast", "attributes")
CONTRAST = "ContrastBolusAgent"


def check(rule: Any, *, place: str) -> Rule:
    """The rule as it is. Raises `BundleError`."""
    if not isinstance(rule, dict) or set(rule) - set(KEYS):
        raise _wrong(f"{place}: series takes {', '.join(KEYS)}.")
    for key in ("words", "without"):
        if not isinstance(rule.get(key, []), list) or not all(isinstance(w, str) and w for w in rule.get(key, [])):
            raise _wrong(f"{place}: series.{key} must be a list of words.")
    if rule.get("contrast") not in (None, True, False):
        raise _wrong(f"{place}: series.contrast must be true or false.")
    attributes = rule.get("attributes", {})
    if not isinstance(attributes, dict):
        raise _wrong(f"{place}: series.attributes must be an object.")
    for keyword, wanted in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise _wrong(f"{place}: {keyword!r} is no DICOM keyword.")
        if not _is_range(wanted) and not _is_texts(wanted):
            raise _wrong(f"{place}: {keyword} must be a list of texts, or of two numbers (from, to).")
    return rule


def keywords(rule: Mapping[str, Any]) -> set[str]:
    """The DICOM keywords, beside SeriesDescription, that `fits` has to be told."""
    asked = set(rule.get("attributes", {}))
    return asked if rule.get("contrast") is None else asked | {CONTRAST}


def fits(rule: Mapping[str, Any], description: str, attributes: Mapping[str, list[Any]]) -> bool:
    """Whether a series is meant. attributes: the values of `keywords`, [] where the series does not have them."""
    text = description.casefold()

    def stands(words: str) -> bool:
        return any(word.strip() in text for word in words.casefold().split("|"))

    if not all(map(stands, rule.get("words", ()))) or any(map(stands, rule.get("without", ()))):
        return False
    contrast = rule.get("contrast")
    if contrast is not None and contrast != any(str(value).strip() for value in attributes.get(CONTRAST, ())):
        return False
    return all(_holds(wanted, attributes.get(key, [])) for key, wanted in rule.get("attributes", {}).items())


def _holds(wanted: list[Any], values: list[Any]) -> bool:
    if _is_range(wanted):
        return any(wanted[0] <= number <= wanted[1] for number in map(_number, values) if number is not None)
    return any(str(text).casefold() in str(value).casefold() for text in wanted for value in values)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _is_range(wanted: Any) -> bool:
    numbers = isinstance(wanted, list) and len(wanted) == 2
    return numbers and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in wanted)


def _is_texts(wanted: Any) -> bool:
    return isinstance(wanted, list) and bool(wanted) and all(isinstance(text, str) and text for text in wanted)


def _wrong(cause: str) -> BundleError:
    return BundleError(cause, "docs/bundle.md describes how an input finds its series.")
