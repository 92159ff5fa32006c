"""Words that may stay in a cleaned description; everything else goes, so that no name is overlooked."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

WORDS = frozenset(Path(__file__).with_name("vocabulary.txt").read_text().split())
_TOKEN = re.compile(r"[A-Za-z0-9.]+|[^A-Za-z0-9.]+")
_MEASURE = re.compile(r"\d{1,2}(\.\d{1,2})?(mm|cm|ms|kv|hu)\Z")


def allowed(word: str) -> bool:
    """Whether a word is of radiology rather than of a person; numbers only with a unit: others may be dates."""
    return word.lower().strip(".") in WORDS or bool(_MEASURE.match(word.lower()))


def cleaned(text: str, names: Collection[str] = ()) -> str:
    """The allowed words of a text, with single spaces; `names` (in small letters) go even where they are allowed."""
    words = [token for token in _TOKEN.findall(text) if token[0].isalnum() and allowed(token)]
    return " ".join(word for word in words if word.lower().strip(".") not in names)


def harmless(text: str) -> bool:
    """Whether a text consists of allowed words only."""
    return all(allowed(token) for token in _TOKEN.findall(text) if token[0].isalnum())
