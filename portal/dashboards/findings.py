"""What the page of an evaluated detector shows, taken from what the evaluation stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inference.evaluation import detection
from inference.evaluation.metrics.detection import RATES
from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.summary import CaseFigures
from inference.registry import manifest as manifests
from portal.dashboards.classes import asked_threshold, in_order
from portal.workbench.roc import COLOURS

LEFTMOST, RIGHTMOST = 0.05, 10.0  # false positives per image, on a logarithmic axis
WORST = 12


def context(evaluation: Evaluation, results: list[CaseResult], asked: str = "") -> dict[str, Any]:
    """asked: the threshold that somebody wants to see, as it came; else the model's own."""
    labels = in_order(evaluation)
    entries = [evaluation.summary[label] for label in labels]
    n = min((entry["froc_score"].get("n") or 0 for entry in entries), default=0)
    cases = {label: _cases(results, label) for label in labels}
    own = manifests.thresholds(evaluation.version.manifest)
    limits = {label: asked_threshold(asked, own[label]) for label in labels}
    levels = [
        {"label": label, "threshold": limits[label], "entry": detection.at_threshold(cases[label], limits[label])}
        for label in labels
        if cases[label]
    ]
    return {
        "headline": [
            {"name": f"{title}, {label}", "entry": evaluation.summary[label][key]}
            for label in labels[:3]
            for key, title in (("froc_score", "FROC score"), ("average_precision", "Average precision"))
        ],
        "froc": chart(labels, evaluation.summary, cases, levels),
        "froc_label": words(evaluation),
        "rates": [
            {
                "rate": _rate(rate),
                "entries": [
                    {"figure": evaluation.summary[label][key], "threshold": detection.threshold_at(cases[label], rate)}
                    for label in labels
                ],
            }
            for key, rate in _keys()
        ],
        "labels": labels,
        "levels": levels,
        "matching": detection.MATCHING,
        "threshold": next(iter(limits.values()), 0.5),
        "own": limits == own,
        "own_thresholds": sorted({round(value, 6) for value in own.values()}),
        "least": evaluation.version.manifest.get("inference", {}).get("least", 0.05),
        "worst": worst(results),
        "smallest": n,
    }


def _cases(results: Iterable[CaseResult], label: str) -> list[CaseFigures]:
    return [
        CaseFigures(
            row.case.name, row.case.cohort_patient.patient_id, row.present, row.predicted, row.score, row.values
        )
        for row in results
        if row.structure == label
    ]


def _keys() -> list[tuple[str, float]]:
    return list(detection.RATE_KEYS.items())


def _rate(value: float) -> str:
    return {0.125: "1/8", 0.25: "1/4", 0.5: "1/2"}.get(value, f"{value:g}")


def chart(
    labels: list[str],
    summary: dict[str, Any],
    cases: dict[str, list[CaseFigures]],
    levels: list[dict[str, Any]],
) -> dict[str, Any] | None:
    """The FROC curve of each label, with the interval of the sensitivity at seven rates and a cross at the chosen
    threshold; None where no case has a lesion."""
    data: list[dict[str, Any]] = []
    for number, label in enumerate(labels):
        mine = cases[label]
        curve = detection.curve(mine) if mine else None
        if curve is None:
            continue
        colour = f"var(--c{number % COLOURS + 1})"
        x = [max(LEFTMOST, value) for value in curve["x"]] + [RIGHTMOST]
        y = [*curve["y"], curve["y"][-1]]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label,
                "x": x,
                "y": y,
                "line": {"color": colour, "width": 2, "shape": "hv"},
                "hovertemplate": "%{y:.2f} at %{x:.3g} false positives an image<extra></extra>",
            }
        )
        known = [(rate, summary[label][key]) for key, rate in _keys() if summary[label][key].get("lower") is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{label}, 95 % interval",
                "showlegend": False,
                "x": [rate for rate, _ in known],
                "y": [entry["estimate"] for _, entry in known],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [entry["upper"] - entry["estimate"] for _, entry in known],
                    "arrayminus": [entry["estimate"] - entry["lower"] for _, entry in known],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                "marker": {"color": colour, "size": 6},
                "hovertemplate": "%{y:.2f} at %{x:.3g}<extra></extra>",
            }
        )
    if not data:
        return None
    data += [_cross(level) for level in levels if level["entry"]["lesion_sensitivity"].get("estimate") is not None]
    layout = {
        "xaxis": {
            "title": {"text": "false positives per image"},
            "type": "log",
            "range": [-1.3, 1.0],
            "tickvals": list(RATES),
            "ticktext": [_rate(rate) for rate in RATES],
        },
        "yaxis": {"title": {"text": "sensitivity, lesions"}, "range": [0, 1.02]},
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def _cross(level: dict[str, Any]) -> dict[str, Any]:
    """The chosen threshold, with the interval of the sensitivity there."""
    found, false = level["entry"]["lesion_sensitivity"], level["entry"]["false_positives_per_image"]
    bars = {"type": "data", "symmetric": False, "color": "var(--text)", "thickness": 1.5, "width": 5}
    if found.get("lower") is not None:
        bars |= {"array": [found["upper"] - found["estimate"]], "arrayminus": [found["estimate"] - found["lower"]]}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{level['label']} from {level['threshold']:.2f}",
        "x": [min(RIGHTMOST, max(LEFTMOST, false["estimate"]))],
        "y": [found["estimate"]],
        "error_y": bars,
        "marker": {"color": "var(--text)", "size": 10, "symbol": "x-thin-open"},
        "hovertemplate": "%{y:.2f} at %{x:.3g} false positives an image<extra></extra>",
    }


def words(evaluation: Evaluation) -> str:
    """The curve in words, for those who cannot see it."""
    parts = []
    for label, summary in evaluation.summary.items():
        entry = summary["sensitivity_1"]
        if entry.get("estimate") is not None and entry.get("lower") is not None:
            parts.append(
                f"{label}: sensitivity {entry['estimate']:.2f} at one false positive an image, 95 percent interval "
                f"{entry['lower']:.2f} to {entry['upper']:.2f}, {entry['n']} cases, {entry['lesions']} lesions"
            )
    return "FROC curves. " + "; ".join(parts)


def worst(results: Iterable[CaseResult]) -> list[dict[str, Any]]:
    """Cases with missed lesions or false positives at the operating threshold, most of them first."""
    rows = [
        {"result": row, "missed": row.values["lesions"] - row.values["found"], "false": row.values["false_positives"]}
        for row in results
    ]
    bad = [row for row in rows if row["missed"] or row["false"]]
    return sorted(bad, key=lambda row: (-row["missed"], -row["false"], row["result"].case.name))[:WORST]


def csv_rows(results: Iterable[CaseResult]) -> Iterable[list[Any]]:
    """A head, then one row per case and label; cases by their pseudonym."""
    yield ["case", "label", "lesions", "found", "false_positives", "score"]
    for row in results:
        values = row.values
        yield [row.case.name, row.structure, values["lesions"], values["found"], values["false_positives"], row.score]
