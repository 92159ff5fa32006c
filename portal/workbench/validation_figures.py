"""What a version showed on the validation patients of its training, as its manifest holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of the figure → estimate, bounds and n: Dice of each structure, AUC of each class and accuracy, or the FROC
    score of each label, which has no interval."""
    facts = manifest.get("training") or {}
    judged = facts.get("validation") or {}
    found = {"Accuracy": accuracy} if (accuracy := judged.get("accuracy")) else {}
    dices, classes = facts.get("validation_dice") or {}, judged.get("classes") or {}
    for name in _ordered(manifest, [*dices, *classes]):
        if name in dices:
            found[f"Dice, {name}"] = dices[name]
        if name in classes:
            found[f"AUC, {name}"] = classes[name]["auc"]
    cases = facts.get("validation_cases")
    for name, score in (facts.get("validation_froc") or {}).items():
        if score is not None:
            found[f"FROC score, {name}"] = {"estimate": score, "lower": None, "upper": None, "n": cases}
    return found


def _ordered(manifest: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """In the order of the labels: the database keeps the keys of an object in an order of its own."""
    order = [label["name"] for label in manifest.get("labels") or []]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def method(manifest: Mapping[str, Any]) -> str:
    """How the intervals were made, in a sentence."""
    facts = manifest.get("training") or {}
    if facts.get("validation_dice"):
        return "95 % interval by BCa bootstrap over cases"
    if facts.get("validation"):
        return "95 % interval: AUC by DeLong, accuracy by bootstrap over patients"
    return "mean sensitivity at 1/8 to 8 false positives per image"
