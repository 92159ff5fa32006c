"""What counts as an answer to a question: one spelling for each kind, so that reads can be compared.

Yes or no → "yes" / "no" · one of several → its text · scale → 1 … 5 · number → a number · free text → text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from portal.annotation.errors import Incomplete
from portal.annotation.models import Question

Kind = Question.Kind
MAX_TEXT = 10_000
SCALE = [1, 2, 3, 4, 5]


def normalised(questions: Iterable[Question], answers: Mapping[str, Any]) -> dict[str, Any]:
    """Answers by question id, in their one spelling; unanswered ones left out.

    Raises `Incomplete` naming every answer that is of the wrong kind or belongs to no question of the campaign.
    """
    if not isinstance(answers, Mapping):
        raise Incomplete({"answers": "Answers are given by question."})
    known = {str(question.pk): question for question in questions}
    kept: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for key, value in answers.items():
        question = known.get(str(key))
        if question is None:
            errors[str(key)] = "This question is not part of the campaign."
        elif value is not None and value != "":
            try:
                kept[str(key)] = _value(question, value)
            except ValueError as error:
                errors[str(key)] = str(error)
    if errors:
        raise Incomplete(errors)
    return kept


def missing(questions: Iterable[Question], answers: Mapping[str, Any]) -> dict[str, str]:
    """What still has to be answered before submitting."""
    return {str(q.pk): "Answer this question." for q in questions if q.required and str(q.pk) not in answers}


def _value(question: Question, value: Any) -> Any:
    kind = Kind(question.kind)
    if kind == Kind.YES_NO:
        spelled = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else str(value).lower()
        if spelled not in ("yes", "no"):
            raise ValueError("Answer yes or no.")
        return spelled
    if kind == Kind.CHOICE:
        if value not in question.choices:
            raise ValueError("Choose one of the answers that are offered.")
        return value
    if kind == Kind.TEXT:
        text = str(value)
        if len(text) > MAX_TEXT:
            raise ValueError(f"This text has {len(text)} characters; {MAX_TEXT} fit.")
        return text
    try:
        number = float(str(value)) if not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("Give a number.")
    if kind == Kind.SCALE and number not in SCALE:
        raise ValueError("Choose 1, 2, 3, 4 or 5.")
    return int(number) if number.is_integer() else number


def digest(answers: Mapping[str, Any], segmentation: tuple[str, str] | None) -> str:
    """SHA-256 over the answers and the segmentation as (SOP instance UID, SHA-256 of its file)."""
    content = {"answers": dict(answers), "segmentation": list(segmentation) if segmentation else None}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
