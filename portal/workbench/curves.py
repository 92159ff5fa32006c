"""The metrics of a job as Plotly charts: one for losses, one for Dice, one for each other kind."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from inference.jobs.models import Job

MOST_POINTS = 400
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
Points = dict[int, float]


@dataclass(frozen=True)
class Curve:
    """`key` is safe as an element id."""

    key: str
    title: str
    note: str
    label: str
    spec: dict[str, Any]


def curves(job: Job, *, validation_cases: int = 0) -> list[Curve]:
    """The job's charts. Where an attempt went over a step again, its value counts."""
    series: dict[str, Points] = defaultdict(dict)
    for name, step, value in job.metrics.order_by("id").values_list("name", "step", "value"):
        if math.isfinite(value):
            series[name][step] = value
    groups: dict[str, dict[str, Points]] = defaultdict(dict)
    for name, points in series.items():
        groups[_group(name)][name] = points
    order = {"loss": 0, "dice": 1}
    made = []
    for number, group in enumerate(sorted(groups, key=lambda group: (order.get(group, 2), group))):
        made.append(_curve(f"curve{number}", group, groups[group], validation_cases))
    return made


def _group(name: str) -> str:
    for group in ("loss", "dice"):
        if group in name.lower():
            return group
    return name.split("/")[0]


def _words(name: str, group: str) -> str:
    """`val_dice/Anterior hippocampus` → `Anterior hippocampus`, `train_loss` → `training`."""
    if "/" in name:
        return name.split("/", 1)[1]
    short = name.lower().removesuffix(group).strip("_")
    return {"train": "training", "val": "validation", "": group}.get(short, short.replace("_", " "))


def _curve(key: str, group: str, series: dict[str, Points], validation_cases: int) -> Curve:
    title = {"loss": "Loss", "dice": "Validation Dice"}.get(group, group.replace("_", " ").capitalize())
    traces, ends = [], []
    for number, name in enumerate(sorted(series)):
        steps = sorted(series[name])
        stride = max(1, math.ceil(len(steps) / MOST_POINTS))
        shown = sorted({*steps[::stride], steps[-1]})
        last = series[name][steps[-1]]
        words = _words(name, group)
        ends.append(f"{words} {last:.3g} at {steps[-1]}" if group != "dice" else f"{words} {last:.2f} at {steps[-1]}")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(shown) == 1 else "lines",
                "name": f"{words} {last:.2f}",
                "x": shown,
                "y": [round(series[name][step], 5) for step in shown],
                "line": {"color": f"var(--c{number % 8 + 1})", "dash": DASHES[number % len(DASHES)]},
                "hovertemplate": "%{y:.3f}",
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "Dice" if group == "dice" else title.lower()}, "rangemode": "tozero"},
        "margin": {"l": 48, "r": 12, "t": 30, "b": 40},
        "showlegend": True,
    }
    if group == "dice":
        layout["yaxis"]["range"] = [0, 1]
    note = ""
    if group == "dice":
        note = "mean over the validation cases" + (f", n={validation_cases}" if validation_cases else "")
    elif group == "loss":
        note = "mean of each epoch"
    return Curve(key, title, note, f"{title} by epoch: {'; '.join(ends)}", {"data": traces, "layout": layout})
