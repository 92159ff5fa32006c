"""The metrics of a job, or of several, as Plotly charts: one for losses, one for Dice, one for each other kind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from inference.jobs.models import Job

MOST_POINTS = 400
FEW_EPOCHS = 10  # up to here every epoch has its tick
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ORDER = ("loss", "dice", "auc", "froc", "memory_gb")
SHARES = ("dice", "auc", "froc")
TITLES = {
    "loss": "Loss",
    "dice": "Validation Dice",
    "auc": "Validation AUC",
    "froc": "Validation FROC score",
    "memory_gb": "Memory",
}
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
    made = []
    for number, group in enumerate(_ordered(groups)):
        made.append(_curve(f"curve{number}", group, groups[group], validation_cases))
    return made


def overlaid(runs: Sequence[dict[str, Points]], labels: Sequence[str]) -> list[Curve]:
    """The series of several runs on the same axes: a colour for each run, a dash for each structure."""
    groups: dict[str, list[tuple[int, str, Points]]] = defaultdict(list)
    for place, series in enumerate(runs):
        for name in sorted(series):
            groups[_group(name)].append((place, name, series[name]))
    made = []
    for number, group in enumerate(_ordered(groups)):
        names = sorted({name for _, name, _ in groups[group]})
        traces, ends = [], []
        for place, name, points in groups[group]:
            words = labels[place] if len(names) == 1 else f"{labels[place]}, {_words(name, group)}"
            last = points[max(points)]
            traces.append(
                _trace(
                    f"{words} {last:.2f}",
                    points,
                    colour=place % 8 + 1,
                    dash=DASHES[names.index(name) % len(DASHES)],
                    hover=words,
                )
            )
            ends.append(f"{words} {last:.3g} at {max(points)}")
        title = _title(group)
        layout = _layout(group)
        _whole_ticks(layout, traces)
        layout["legend"] = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
        layout["margin"]["b"] = 48 + 20 * math.ceil(len(traces) / 2)
        label = f"{title} by epoch: {'; '.join(ends)}"
        made.append(Curve(f"overlay{number}", title, "", label, {"data": traces, "layout": layout}))
    return made


def _ordered(groups: Iterable[str]) -> list[str]:
    return sorted(groups, key=lambda group: (ORDER.index(group) if group in ORDER else len(ORDER), group))


def _group(name: str) -> str:
    for group in ORDER:
        if group in name.lower().split("/")[0]:
            return group
    return name.split("/")[0]


def _words(name: str, group: str) -> str:
    """`val_dice/Anterior hippocampus` → `Anterior hippocampus`, `train_loss` → `training`."""
    if group == "memory_gb":
        return "peak"
    if "/" in name:
        return name.split("/", 1)[1]
    short = name.lower().removesuffix(group).strip("_")
    return {"train": "training", "val": "validation", "": group}.get(short, short.replace("_", " "))


def _title(group: str) -> str:
    return TITLES.get(group) or group.replace("_", " ").capitalize()


def _layout(group: str) -> dict[str, Any]:
    axis = {"dice": "Dice", "auc": "AUC", "froc": "FROC score", "memory_gb": "GB"}.get(group, _title(group).lower())
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "epoch"}, "tickformat": "d"},
        "yaxis": {"title": {"text": axis}, "rangemode": "tozero"},
        "margin": {"l": 48, "r": 12, "t": 30, "b": 40},
        "showlegend": True,
    }
    if group in SHARES:
        layout["yaxis"]["range"] = [0, 1.01]
    return layout


def _whole_ticks(layout: dict[str, Any], traces: Sequence[dict[str, Any]]) -> None:
    """No ticks between two epochs."""
    if max(trace["x"][-1] for trace in traces) - min(trace["x"][0] for trace in traces) < FEW_EPOCHS:
        layout["xaxis"]["dtick"] = 1


def _trace(name: str, points: Points, *, colour: int, dash: str, hover: str = "") -> dict[str, Any]:
    steps = sorted(points)
    stride = max(1, math.ceil(len(steps) / MOST_POINTS))
    shown = sorted({*steps[::stride], steps[-1]})
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(shown) == 1 else "lines",
        "name": name,
        "x": shown,
        "y": [round(points[step], 5) for step in shown],
        "line": {"color": f"var(--c{colour})", "dash": dash},
        "hovertemplate": "%{y:.3g} at epoch %{x}<extra>" + (hover or name) + "</extra>",
    }


def _curve(key: str, group: str, series: dict[str, Points], validation_cases: int) -> Curve:
    traces, ends = [], []
    for number, name in enumerate(sorted(series)):
        end = max(series[name])
        last, words = series[name][end], _words(name, group)
        ends.append(f"{words} {last:.2f} at {end}" if group in SHARES else f"{words} {last:.3g} at {end}")
        traces.append(
            _trace(
                f"{words} {last:.2f}",
                series[name],
                colour=number % 8 + 1,
                dash=DASHES[number % len(DASHES)],
                hover=words,
            )
        )
    note = ""
    if group in SHARES:
        what = "mean over the validation cases" if group == "dice" else "on the validation cases"
        note = what + (f", n={validation_cases}" if validation_cases else "")
    elif group == "loss":
        note = "mean of each epoch"
    elif group == "memory_gb":
        note = "most that the training held until then, GB"
    title = _title(group)
    layout = _layout(group)
    _whole_ticks(layout, traces)
    return Curve(key, title, note, f"{title} by epoch: {'; '.join(ends)}", {"data": traces, "layout": layout})
