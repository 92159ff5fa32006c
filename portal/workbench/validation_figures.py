"""What a version showed on the validation patients of its training, as its manifest holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of the figure → estimate, bounds and n: Dice of each structure, AUC of each class and accuracy, or the FROC
    score of each label, which has no interval."""
    facts = manifest.get("training") or {}
    found = {f"Dice, {name}": entry for name, entry in (facts.get("validation_dice") or {}).items()}
    judged = facts.get("validation") or {}
    found |= {f"AUC, {name}": entry["auc"] for name, entry in (judged.get("classes") or {}).items()}
    if accuracy := judged.get("accuracy"):
        found["Accuracy"] = accuracy
    cases = facts.get("validation_cases")
    for name, score in (facts.get("validation_froc") or {}).items():
        if score is not None:
            found[f"FROC score, {name}"] = {"estimate": score, "lower": None, "upper": None, "n": cases}
    return found


def method(manifest: Mapping[str, Any]) -> str:
    """How the intervals were made, in a sentence."""
    facts = manifest.get("training") or {}
    if facts.get("validation_dice"):
        return "95 % interval by BCa bootstrap over cases"
    if facts.get("validation"):
        return "95 % interval: AUC by DeLong, accuracy by bootstrap over patients"
    return "mean sensitivity at 1/8 to 8 false positives per image"
