"""ROC curves as Plotly charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.evaluation.statistics import operating

COLOURS = 7  # of the palette, --c1 to --c7
DASHES = ("solid", "dash", "dot", "dashdot")
# name, AUC with its interval, truth, scores
Line = tuple[str, dict[str, Any], list[bool], list[float]]


def roc_points(truth: list[bool], scores: list[float]) -> tuple[list[float], list[float], list[float]]:
    """The empirical ROC curve: false-positive rates, true-positive rates and the threshold of each point.

    Starts at (0, 0) with an infinite threshold; equal scores make one step. Raises ValueError unless both classes
    are there.
    """
    points = operating.curve(truth, scores)
    x = [point.fp / (point.fp + point.tn) for point in points]
    y = [point.tp / (point.tp + point.fn) for point in points]
    return [0.0, *x], [0.0, *y], [float("inf"), *(point.threshold for point in points)]


def roc_chart(lines: Sequence[Line], points: Sequence[dict[str, Any]] = ()) -> tuple[dict[str, Any], str]:
    """The ROC curves as a Plotly specification, and their result in words. points: more traces, on top."""
    data: list[dict[str, Any]] = []
    words = []
    for number, (name, entry, truth, scores) in enumerate(lines):
        x, y, thresholds = roc_points(truth, scores)
        label = f"{name}, AUC {entry['estimate']:.2f}"
        if entry.get("lower") is not None:
            label += f" [{entry['lower']:.2f}–{entry['upper']:.2f}]"
        else:
            label += ", no interval"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "name": f"{label} n={entry['n']}",
                "line": {
                    "color": f"var(--c{number % COLOURS + 1})",
                    "dash": DASHES[number % len(DASHES)],
                    "width": 2,
                },
                "text": ["" if t == float("inf") else f"threshold {t:.3f}" for t in thresholds],
                "hovertemplate": "1 − specificity %{x:.2f}, sensitivity %{y:.2f} %{text}<extra></extra>",
            }
        )
        words.append(label)
    data += points
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "var(--text-3)", "dash": "dash", "width": 1},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    layout = {
        "xaxis": {"title": {"text": "1 − specificity"}, "range": [-0.01, 1.01]},
        "yaxis": {"title": {"text": "sensitivity"}, "range": [-0.01, 1.01]},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "hovermode": "closest",
        "margin": {"t": 12, "b": 56 + 20 * len(lines)},
    }
    return {"data": data, "layout": layout}, "ROC curve. " + "; ".join(words)
