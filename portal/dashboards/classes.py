"""What the page of an evaluated classifier shows: confusion matrix, operating points, ROC curves, every case."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from inference.evaluation import services
from inference.evaluation.classification import call
from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.statistics import operating
from inference.registry import manifest as manifests
from portal.workbench.roc import roc_chart

WRONG = 12
SPECIFICITY = 0.9  # of the second suggested threshold


def context(evaluation: Evaluation, results: list[CaseResult], asked_class: str, asked: str) -> dict[str, Any]:
    """asked_class, asked: class and threshold that somebody wants to see, as they came; else the model's own."""
    classes = in_order(evaluation)
    figures = services.classes_of(evaluation) or {}
    cases = rows(results, classes)
    chosen = asked_class if asked_class in classes else next(iter(classes), "")
    truth = [case["truth"] == chosen for case in cases]
    scores = [case["shares"][chosen] for case in cases]
    limits = manifests.thresholds(evaluation.version.manifest)
    threshold = asked_threshold(asked, limits.get(chosen, 0.5))
    both = any(truth) and not all(truth)
    return {
        "classes": classes,
        "figures": figures,
        "confusion": _confusion(figures.get("confusion"), classes),
        "chosen": chosen,
        "threshold": threshold,
        "point": _point("Chosen", operating.at(truth, scores, threshold)) if cases else None,
        "suggested": _suggested(truth, scores, limits.get(chosen, 0.5)) if both else [],
        "curves": _curves(evaluation, cases, classes, chosen, threshold),
        "cases": cases,
        "wrong": sorted((c for c in cases if c["called"] != c["truth"]), key=lambda c: -c["shares"][c["called"]])[
            :WRONG
        ],
    }


def in_order(evaluation: Evaluation) -> list[str]:
    """The evaluated classes in the order of the model; JSON in the database keeps none."""
    return [label["name"] for label in evaluation.version.manifest["labels"] if label["name"] in evaluation.summary]


def _confusion(found: dict[str, Any] | None, classes: list[str]) -> list[dict[str, Any]]:
    if not found:
        return []
    names = found["classes"]
    of = {name: dict(zip(names, row, strict=True)) for name, row in zip(names, found["counts"], strict=True)}
    return [{"name": name, "counts": [(called, of[name][called]) for called in classes]} for name in classes]


def rows(results: Iterable[CaseResult], classes: list[str]) -> list[dict[str, Any]]:
    """One entry for each case that has a truth: its case, what it is, what it was called, the share of each class."""
    shares: dict[int, dict[str, float]] = {}
    truth: dict[int, str] = {}
    case_of = {}
    for result in results:
        case_of[result.case_id] = result.case
        shares.setdefault(result.case_id, {})[result.structure] = result.score or 0.0
        if result.present:
            truth[result.case_id] = result.structure
    return [
        {"case": case_of[pk], "truth": name, "called": call(classes, shares[pk]), "shares": shares[pk]}
        for pk, name in truth.items()
        if set(shares[pk]) == set(classes)
    ]


def csv_rows(cases: Iterable[dict[str, Any]], classes: list[str]) -> Iterable[list[Any]]:
    """A head, then one row for each case; cases by their pseudonym."""
    yield ["case", "truth", "called", *(f"p({name})" for name in classes)]
    for case in cases:
        yield [case["case"].name, case["truth"], case["called"], *(case["shares"][name] for name in classes)]


def asked_threshold(asked: str, usual: float) -> float:
    """A threshold as somebody typed it, within 0 to 1; the usual one where it is no number."""
    try:
        value = float(asked.replace(",", "."))
    except ValueError:
        return usual
    return min(1.0, max(0.0, value)) if math.isfinite(value) else usual


def _point(name: str, point: operating.Point) -> dict[str, Any]:
    return {"name": name, "threshold": point.threshold, "counts": point, "figures": point.figures()}


def _suggested(truth: list[bool], scores: list[float], own: float) -> list[dict[str, Any]]:
    made = [_point("The model's own", operating.at(truth, scores, own))]
    made.append(_point("Largest sensitivity + specificity (Youden)", operating.youden(truth, scores)))
    if (point := operating.at_specificity(truth, scores, SPECIFICITY)) is not None:
        made.append(_point(f"Specificity of at least {SPECIFICITY:g}", point))
    return made


def _curves(
    evaluation: Evaluation, cases: list[dict[str, Any]], classes: list[str], chosen: str, threshold: float
) -> tuple[dict[str, Any], str] | None:
    """The ROC curve of each class against the others, with the chosen operating point and its intervals."""
    lines = []
    for name in classes[:1] if len(classes) == 2 and chosen == classes[0] else classes:
        entry = evaluation.summary[name].get("auc") or {}
        truth = [case["truth"] == name for case in cases]
        if entry.get("estimate") is not None and any(truth) and not all(truth):
            lines.append((name, entry, truth, [case["shares"][name] for case in cases]))
    if not lines:
        return None
    truth = [case["truth"] == chosen for case in cases]
    found = operating.at(truth, [case["shares"][chosen] for case in cases], threshold).figures()
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    points = []
    if sensitivity["estimate"] is not None and specificity["estimate"] is not None:
        points.append(_marker(f"{chosen} at {threshold:.3g}", sensitivity, specificity))
    return roc_chart(lines, points)


def _marker(name: str, sensitivity: dict[str, Any], specificity: dict[str, Any]) -> dict[str, Any]:
    """A cross as long as Wilson's intervals."""
    bars = {"type": "data", "symmetric": False, "color": "var(--text)", "thickness": 1.5, "width": 5}
    x = 1 - specificity["estimate"]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x],
        "y": [sensitivity["estimate"]],
        "error_x": bars | {"array": [1 - specificity["lower"] - x], "arrayminus": [x - (1 - specificity["upper"])]},
        "error_y": bars
        | {
            "array": [sensitivity["upper"] - sensitivity["estimate"]],
            "arrayminus": [sensitivity["estimate"] - sensitivity["lower"]],
        },
        "marker": {"color": "var(--text)", "size": 9, "symbol": "circle-open", "line": {"width": 2}},
        "hovertemplate": "1 − specificity %{x:.2f}, sensitivity %{y:.2f}<extra></extra>",
    }
