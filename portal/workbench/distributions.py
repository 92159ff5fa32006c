"""A figure of all cases as a chart: points with a violin, mean with interval, for each structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.urls import reverse

from inference.evaluation.models import CaseResult
from inference.training.models import HeldOutResult
from portal.workbench.roc import COLOURS

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")
Figures = Mapping[str, Mapping[str, Any]]  # structure → figure → entry with estimate and interval


def chart(
    figures: Figures,
    results: Iterable[CaseResult | HeldOutResult],
    key: str,
    *,
    name: str,
    unit: str = "",
    share: bool = False,
) -> dict[str, Any] | None:
    """None where no case has the figure `key`. share: it lies between 0 and 1, more is better."""
    by_structure: dict[str, list[CaseResult | HeldOutResult]] = {structure: [] for structure in figures}
    for result in results:
        if result.values.get(key) is not None:
            by_structure.setdefault(result.structure, []).append(result)
    data: list[dict[str, Any]] = []
    for number, (structure, rows) in enumerate(by_structure.items()):
        if not rows:
            continue
        colour = f"var(--c{number % COLOURS + 1})"
        data.append(
            {
                "type": "violin",
                "name": structure,
                "x0": _broken(structure),
                "y": [row.values[key] for row in rows],
                "customdata": [[reverse("open_study", args=[row.case.study_id])] for row in rows],
                "text": [row.case.name for row in rows],
                "hovertemplate": "%{text}: %{y:.3f}<extra></extra>",
                "hoveron": "points",
                "points": "all",
                "pointpos": 0,
                "jitter": 0.5,
                "spanmode": "hard",
                "line": {"color": colour, "width": 1},
                "fillcolor": f"{colour}/0.14",
                "marker": {"color": colour, "size": 5, "opacity": 0.75, "symbol": SYMBOLS[number % len(SYMBOLS)]},
                "showlegend": False,
            }
        )
        entry = figures.get(structure, {}).get(key) or {}
        if entry.get("estimate") is not None and entry.get("lower") is not None:
            data.append(
                {
                    "type": "scatter",
                    "x": [_broken(structure)],
                    "y": [entry["estimate"]],
                    "mode": "markers",
                    "error_y": {
                        "type": "data",
                        "symmetric": False,
                        "array": [entry["upper"] - entry["estimate"]],
                        "arrayminus": [entry["estimate"] - entry["lower"]],
                        "color": "var(--text)",
                        "thickness": 2,
                        "width": 8,
                    },
                    "marker": {"color": "var(--text)", "size": 9, "symbol": "line-ew-open", "line": {"width": 3}},
                    "name": "mean, 95 % interval",
                    "showlegend": False,
                    "hovertemplate": f"mean {entry['estimate']:.3f} [{entry['lower']:.3f}–{entry['upper']:.3f}]"
                    f" n={entry['n']}<extra></extra>",
                }
            )
    if not data:
        return None
    axis: dict[str, Any] = {"title": {"text": name + (f", {unit}" if unit else "")}, "zeroline": False}
    if share:
        lowest = min(min(trace["y"]) for trace in data)
        axis["range"] = [max(0.0, round(lowest - 0.06, 1) - 0.02), 1.01]
    layout = {"yaxis": axis, "xaxis": {"type": "category", "tickangle": 0}, "hovermode": "closest"}
    layout["margin"] = {"t": 12, "b": 48}
    return {"data": data, "layout": layout}


def _broken(name: str) -> str:
    """A long name on two lines, so that names below a chart stand upright."""
    words = name.split()
    if len(name) < 14 or len(words) < 2:
        return name
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "<br>" + " ".join(words[half:])


def words(figures: Figures, key: str, *, name: str) -> str:
    """The result of the chart in words, for those who cannot see it."""
    parts = []
    for structure, entries in figures.items():
        entry = entries.get(key) or {}
        if entry.get("estimate") is not None and entry.get("lower") is not None:
            parts.append(
                f"{structure}: mean {entry['estimate']:.2f}, 95 percent interval {entry['lower']:.2f} to "
                f"{entry['upper']:.2f}, {entry['n']} cases"
            )
    return f"{name} by structure. " + "; ".join(parts)
