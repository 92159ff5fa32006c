"""What a routing rule asks of a series. No database.

Lists (`modality`, …) hold values of which one has to be the series', without regard to case. Texts
(`study_description`, …) are looked at in one of three ways, without regard to case: `contains`; `wildcard` (`*` any
characters, `?` one, the whole value); `regex` (found anywhere). Regular expressions are those of RE2, which takes time
linear in the text whatever the expression is, and hence knows neither look-around nor back-references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from inference.errors import InferenceError

LISTS = {
    "modality": "Modality",
    "body_part_examined": "BodyPartExamined",
    "sop_class_uid": "SOPClassUID",
    "import_source": "Way in",
    "sending_ae_title": "Sending AE title",
}
TEXTS = {
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "station_name": "StationName",
}
WAYS = {"contains": "contains", "wildcard": "is like", "regex": "matches"}
LABELS = {**LISTS, **TEXTS, "minimum_instances": "Images"}
CODES = ("modality", "body_part_examined")  # code strings (CS), written in capitals
MOST_VALUES = 50
LONGEST = 200
_UID = re.compile(r"[0-9][0-9.]{0,63}\Z")


class RuleError(InferenceError):
    """A rule that cannot be used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An acquired series as conditions see it."""

    modality: str = ""
    body_part_examined: str = ""
    sop_class_uid: str = ""
    import_source: str = ""
    sending_ae_title: str = ""
    study_description: str = ""
    series_description: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    number_of_instances: int = 0


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first condition that a series does not meet, and what the series has there."""

    condition: str
    found: str

    @property
    def words(self) -> str:
        return f"{self.condition} is “{self.found}”" if self.found else f"{self.condition} is empty"


@dataclass(frozen=True)
class Text:
    how: str
    text: str

    def fits(self, value: str) -> bool:
        if self.how == "contains":
            return self.text.casefold() in value.casefold()
        expression = _compiled(_of_wildcards(self.text) if self.how == "wildcard" else self.text)
        found = expression.fullmatch(value) if self.how == "wildcard" else expression.search(value)
        return found is not None


@dataclass(frozen=True)
class Conditions:
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts: Mapping[str, Text] = field(default_factory=dict)
    minimum_instances: int = 1

    def mismatch(self, series: Candidate) -> Mismatch | None:
        """None where the series meets every condition."""
        for name, values in self.lists.items():
            found = getattr(series, name)
            if found.casefold() not in {value.casefold() for value in values}:
                return Mismatch(LABELS[name], found)
        for name, text in self.texts.items():
            found = getattr(series, name)
            if not text.fits(found):
                return Mismatch(LABELS[name], found)
        if series.number_of_instances < self.minimum_instances:
            return Mismatch("Number of images", str(series.number_of_instances))
        return None

    def as_dict(self) -> dict[str, Any]:
        """As it is stored, and as `parse` takes it."""
        found: dict[str, Any] = {name: list(values) for name, values in self.lists.items()}
        found |= {name: {"how": text.how, "text": text.text} for name, text in self.texts.items()}
        if self.minimum_instances > 1:
            found["minimum_instances"] = self.minimum_instances
        return found

    def words(self) -> Iterator[tuple[str, str]]:
        """(attribute, what is asked of it) for people."""
        for name, values in self.lists.items():
            yield LABELS[name], " or ".join(values)
        for name, text in self.texts.items():
            yield LABELS[name], f"{WAYS[text.how]} “{text.text}”"
        if self.minimum_instances > 1:
            yield "Images", f"{self.minimum_instances} at least"


def parse(given: Mapping[str, Any]) -> Conditions:
    """The conditions of a stored or sent mapping; what is empty is left out. Raises `RuleError`."""
    unknown = set(given) - set(LABELS)
    if unknown:
        raise RuleError(
            f"There is no condition {', '.join(sorted(unknown))}.", f"Choose among {', '.join(sorted(LABELS))}."
        )
    lists = {name: values for name in LISTS if (values := _values(name, given.get(name)))}
    texts = {name: text for name in TEXTS if (text := _text(name, given.get(name))) is not None}
    least = given.get("minimum_instances") or 1
    if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= 100_000:
        raise RuleError("The smallest number of images is no number from 1 to 100,000.", "Leave it out, or correct it.")
    return Conditions(lists, texts, least)


def _values(name: str, given: Any) -> tuple[str, ...]:
    if given in (None, ""):
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(value, str) for value in given):
        raise RuleError(f"{LABELS[name]} is no list of texts.", "Give a list, for example [“CT”].")
    values = [value.strip().upper() if name in CODES else value.strip() for value in given]
    values = list(dict.fromkeys(value for value in values if value))
    if len(values) > MOST_VALUES or any(len(value) > 64 for value in values):
        raise RuleError(f"{LABELS[name]} has too many values, or one that is too long.", "Leave some out.")
    if name == "sop_class_uid" and (wrong := next((value for value in values if not _UID.match(value)), None)):
        raise RuleError(
            f"“{wrong}” is no UID.", "A SOP class UID has digits and dots, such as 1.2.840.10008.5.1.4.1.1.2."
        )
    return tuple(values)


def _text(name: str, given: Any) -> Text | None:
    if given in (None, "", {}):
        return None
    how, text = (given.get("how"), given.get("text")) if isinstance(given, Mapping) else (None, None)
    if how not in WAYS or not isinstance(text, str):
        raise RuleError(
            f"{LABELS[name]} needs “how” and “text”.",
            f"“how” is one of {', '.join(WAYS)}; “text” is what is looked for.",
        )
    if not text.strip():
        return None
    if len(text) > LONGEST:
        raise RuleError(f"The text for {LABELS[name]} is longer than {LONGEST} characters.", "Shorten it.")
    if how == "regex":
        try:
            _compiled(text)
        except ValueError as error:
            raise RuleError(
                f"The regular expression for {LABELS[name]} cannot be used: {error}.",
                "Look-around and back-references are not known; see the syntax of RE2.",
            ) from None
        return Text(how, text)
    return Text(how, text.strip())


def _of_wildcards(text: str) -> str:
    return "(?s)" + "".join({"*": ".*", "?": "."}.get(sign) or re.escape(sign) for sign in text)


@lru_cache(maxsize=512)
def _compiled(expression: str) -> Any:
    """Raises `ValueError` with RE2's words."""
    import re2  # only where a rule has an expression: everything else does without

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
