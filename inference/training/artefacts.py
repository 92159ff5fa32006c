"""What of a training run leaves for an MLflow server as files: configuration, manifest, model card, log.

They carry no identity. Names of cohorts, reference standards and users are left out or replaced by keys, paths are left
out, and where people wrote a patient's name or ID into a text, it is replaced. What people wrote in the model card goes
along: a card is made to be read by others.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from inference.evaluation.models import Evaluation
from inference.jobs.failures import without_identity
from inference.registry.card import card_of
from inference.registry.card_markdown import markdown
from inference.training import toml
from inference.training.models import TrainingRun
from portal.accounts.models import User

ELSEWHERE, SOMEBODY = "a file of the portal", "a user of the portal"
NAMES = ("configuration.toml", "log.txt", "manifest.json", "model_card.json", "model_card.md")
Clean = Callable[[Any], Any]


def of(run: TrainingRun, *, by: User | None) -> dict[str, bytes]:
    """Name of the file: content, UTF-8. run: finished. by: whoever exports; the card tells of the evaluations that they
    may see, and is left out where nobody is known."""
    clean = _cleaner(run)
    assert run.version is not None
    found = {
        "configuration.toml": toml.text(clean(_config(run))),
        "manifest.json": _json(clean(_manifest(run))),
        "log.txt": clean(_log(run)),
    }
    if by is not None:
        card = clean(_card(run, by))
        found |= {"model_card.json": _json(card), "model_card.md": markdown(card)}
    return {name: text.encode() for name, text in sorted(found.items())}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _config(run: TrainingRun) -> dict[str, Any]:
    config = copy.deepcopy(run.config)
    config["description"] = ""
    config["data"] |= {"project": "", "cohort": "", "reference": ""}
    if config["training"]["weights"] not in ("", "imagenet"):
        config["training"]["weights"] = ELSEWHERE
    return config


def _manifest(run: TrainingRun) -> dict[str, Any]:
    assert run.version is not None
    manifest = copy.deepcopy(run.version.manifest)
    manifest["description"] = ""
    manifest.pop("card", None)  # the card is a file of its own
    if "training" in manifest:
        manifest["training"] |= {"cohort": _cohort(run.reference.cohort_id), "reference": _reference(run.reference_id)}
    return manifest


def _card(run: TrainingRun, by: User) -> dict[str, Any]:
    assert run.version is not None
    card = copy.deepcopy(card_of(run.version, by))
    card["model"]["description"] = ""  # the same as the section on intended use
    card["model"]["made_by"] = card["revision"]["by"] = SOMEBODY
    training = card["training"]
    training["told"] |= {"cohort": _cohort(run.reference.cohort_id), "reference": _reference(run.reference_id)}
    for row in training["runs"]:  # a version that was trained here has the one run
        row |= {"cohort": _cohort(run.reference.cohort_id), "reference": _reference(run.reference_id)}
    shown = {row["id"]: row for row in card["results"]}
    for pk, cohort, reference in Evaluation.objects.filter(pk__in=shown).values_list(
        "pk", "reference__cohort", "reference"
    ):
        shown[pk] |= {"cohort": _cohort(cohort), "reference": _reference(reference)}
    for row in card["stages"]:
        row["by"] = SOMEBODY
    return card


def _cohort(pk: int) -> str:
    return f"cohort {pk}"


def _reference(pk: int) -> str:
    return f"reference standard {pk}"


def _log(run: TrainingRun) -> str:
    """The job's own words. Lines about its life name machines and are left out."""
    assert run.job is not None
    lines = run.job.log.exclude(level="event").values_list("at", "attempt", "level", "text")
    return "".join(f"{at:%Y-%m-%d %H:%M:%S} {attempt} {level}: {text}\n" for at, attempt, level, text in lines)


def _cleaner(run: TrainingRun) -> Clean:
    """Replaces what must not leave in every text of a value."""
    weights = run.config["training"]["weights"]
    private = {
        run.reference.cohort.name: _cohort(run.reference.cohort_id),
        str(run.reference): _reference(run.reference_id),
        weights if weights != "imagenet" else "": ELSEWHERE,
    }

    def without_names(text: str) -> str:
        for name, key in private.items():
            text = text.replace(name, key) if name else text
        return text

    def clean(value: Any) -> Any:
        texts: list[str] = []

        def note(text: str) -> str:
            texts.append(text.replace(SEPARATOR, " "))
            return text

        _each_text(value, note)
        # Patients are looked up once for all texts, and first: a cohort's name may be part of their IDs.
        cleaned = iter(without_identity(SEPARATOR.join(texts), run.project_id).split(SEPARATOR))
        return _each_text(value, lambda _: without_names(next(cleaned)))

    return clean


SEPARATOR = "\x1f"  # a control character, which no form takes


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return value
