"""What searches for settings and for a learning rate show on the page of their job: a table and charts."""

from __future__ import annotations

import math
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from inference.jobs.models import Job
from inference.tuning import services
from inference.tuning.models import SettingsSearch, Trial
from portal.workbench.curves import Curve

STATES = {
    Trial.State.RUNNING: ("run", "Running"),
    Trial.State.COMPLETE: ("ok", "Complete"),
    Trial.State.PRUNED: ("none", "Given up early"),
    Trial.State.FAILED: ("bad", "Failed"),
}
LOGARITHMIC = {"log": {"dtick": 1, "exponentformat": "power"}}
MOST_SETTINGS = 4  # of which a chart is drawn


def search_of(job: Job) -> SettingsSearch | None:
    try:
        return job.settings_search
    except ObjectDoesNotExist:
        return None


def table(search: SettingsSearch) -> dict[str, Any]:
    """The trials, best first, then those under way and those that failed."""
    chosen = services.best(search)
    trials = list(search.trials.all())
    names = list(dict.fromkeys(name for trial in trials for name in trial.figures))
    rows = [
        {
            "number": trial.number,
            "best": chosen is not None and trial.number == chosen.number,
            "state": STATES[Trial.State(trial.state)],
            "values": [(key, spoken(value)) for key, value in trial.values.items()],
            "value": trial.value,
            "figures": [(name, trial.figures.get(name)) for name in names] if trial.figures else [],
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            "cause": f"{trial.cause} {trial.next_step}".strip(),
            "usable": trial.state in (Trial.State.COMPLETE, Trial.State.PRUNED),
        }
        for trial in sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0), trial.number))
    ]
    return {
        "rows": rows,
        "names": names,
        "best": chosen.number if chosen else None,
        "ended": sum(trial.state != Trial.State.RUNNING for trial in trials),
        "trials": search.search["trials"],
        "figure": figure_of(search),
    }


def figure_of(search: SettingsSearch) -> str:
    return {"classification": "AUC", "detection": "FROC score"}.get(search.config.get("task"), "Dice")


def spoken(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def curves(job: Job) -> list[Curve]:
    """The charts of a search, or of a range test that has ended; none for other jobs."""
    if job.kind == "find_learning_rate":
        return [_range_test(job.result)] if job.result.get("rates") else []
    search = search_of(job)
    if search is None:
        return []
    ended = [trial for trial in search.trials.all() if trial.value is not None]
    if not ended:
        return []
    word = f"mean validation {figure_of(search)}"
    return [_course(ended, word), *_settings(search, ended, word)]


def _course(trials: list[Trial], word: str) -> Curve:
    best, bests = -math.inf, []
    for trial in trials:
        if trial.state == Trial.State.COMPLETE:
            best = max(best, trial.value or 0)
        bests.append(round(best, 5) if math.isfinite(best) else None)
    numbers = [trial.number for trial in trials]
    data = [
        {
            "type": "scatter", "mode": "markers", "name": "trials", "x": numbers,
            "y": [round(trial.value or 0, 5) for trial in trials],
            "marker": {
                "color": "var(--c1)", "size": 9,
                "symbol": ["circle" if trial.state == Trial.State.COMPLETE else "x-thin-open" for trial in trials],
            },
            "hovertemplate": "trial %{x}: %{y:.3f}<extra></extra>",
        },
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": numbers, "y": bests,
            "line": {"color": "var(--c2)", "shape": "hv"}, "hovertemplate": "best so far %{y:.3f}<extra></extra>",
        },
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "trial"}, "dtick": max(1, len(trials) // 8), "tickformat": "d"},
        "yaxis": {"title": {"text": word}},
        "margin": {"l": 52, "r": 12, "t": 30, "b": 40},
        "showlegend": True,
    }
    label = f"{word} of {len(trials)} trials, best {best:.3f}" if math.isfinite(best) else f"{word} of the trials"
    return Curve("trials", "Trials", "crosses were given up early", label, {"data": data, "layout": layout})


def _settings(search: SettingsSearch, trials: list[Trial], word: str) -> list[Curve]:
    """For each setting that varied: the figure over its values."""
    made = []
    for number, (key, entry) in enumerate(list(search.search["space"].items())[:MOST_SETTINGS]):
        values = [trial.values[key] for trial in trials]
        choices = "choices" in entry
        data = [
            {
                "type": "scatter", "mode": "markers", "x": [spoken(value) if choices else value for value in values],
                "y": [round(trial.value or 0, 5) for trial in trials],
                "text": [f"trial {trial.number}" for trial in trials],
                "marker": {
                    "color": "var(--c1)", "size": 9,
                    "symbol": ["circle" if trial.state == Trial.State.COMPLETE else "x-thin-open" for trial in trials],
                },
                "hovertemplate": "%{text}: %{x}, %{y:.3f}<extra></extra>",
            }
        ]  # fmt: skip
        kind = "category" if choices else "log" if entry["log"] else "linear"
        layout = {
            "xaxis": {"title": {"text": key}, "type": kind, **LOGARITHMIC.get(kind, {})},
            "yaxis": {"title": {"text": word}},
            "margin": {"l": 52, "r": 12, "t": 12, "b": 44},
            "showlegend": False,
        }
        made.append(
            Curve(f"setting{number}", key, "", f"{word} over {key}, one point for each trial",
                  {"data": data, "layout": layout})
        )  # fmt: skip
    return made


def _range_test(result: dict[str, Any]) -> Curve:
    rates = result["rates"]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "name": "loss of each step", "x": rates,
            "y": [round(value, 5) for value in result["losses"]],
            "line": {"color": "var(--c1)/0.35", "width": 1}, "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "lines", "name": "smoothed", "x": rates,
            "y": [round(value, 5) for value in result["smoothed"]], "line": {"color": "var(--c1)", "width": 2.5},
            "hovertemplate": "rate %{x:.2e}, loss %{y:.3f}<extra></extra>",
        },
    ]  # fmt: skip
    words = "no rate is suggested"
    if (rate := result.get("suggested")) is not None:
        words = f"the loss falls fastest at {rate:g}"
        low, high = min(result["smoothed"]), max(result["smoothed"])
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": f"suggested: {rate:g}", "x": [rate, rate],
                "y": [low, high], "line": {"color": "var(--c2)", "dash": "dash"}, "hoverinfo": "skip",
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "learning rate"}, "type": "log", "exponentformat": "power"},
        "yaxis": {"title": {"text": "loss"}},
        "margin": {"l": 52, "r": 12, "t": 30, "b": 44},
        "showlegend": True,
    }
    return Curve(
        "range", "Loss by learning rate", words, f"Loss over {len(rates)} steps of a rising learning rate; {words}",
        {"data": data, "layout": layout},
    )  # fmt: skip
