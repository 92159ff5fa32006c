"""A cross-validation as its page shows it: tables, curves, single rounds, and what they can say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from inference.evaluation.classification import call
from inference.jobs.models import Job
from inference.training import crossvalidation
from inference.training.config import BASELINES, TITLES
from inference.training.models import CrossValidation, HeldOutPrediction
from portal.accounts.models import User
from portal.workbench.roc import roc_chart

MOST_CURVES = 4  # classes of which a table shows the ROC curves


def shown(validation: CrossValidation, user: User) -> dict[str, Any]:
    """What the template needs: for each scheme its methods with their figures, and the warning about sources."""
    summary = validation.summary
    rows = list(held_out(validation, user))
    classes = summary["classes"]
    counted = sum(table["methods"][0][1]["n"] for table in crossvalidation.tables(summary) if table["methods"])
    seen = sum(row.method == "network" for row in rows)
    confounding = summary.get("confounding") or {}
    return {
        "classes": classes,
        "schemes": [
            _table(number, table, classes, rows) for number, table in enumerate(crossvalidation.tables(summary))
        ],
        "confounding": confounding,
        "alone": _alone(confounding),
        "by_source": [
            {"name": name, "counts": counts}
            for name, counts in zip(confounding.get("classes", []), confounding.get("counts", []), strict=True)
        ],
        "hidden": max(0, counted - seen),
    }


def held_out(validation: CrossValidation, user: User):
    """What each method said about each unseen case that the user may see now."""
    rows = HeldOutPrediction.objects.visible_to(user).filter(cross_validation=validation)
    return rows.select_related("case").order_by("scheme", "round", "case__name", "method")


def _table(number: int, table: dict[str, Any], classes: Sequence[str], rows: list[HeldOutPrediction]) -> dict[str, Any]:
    names = [part["name"] for part in table["rounds"]]
    own = [row for row in rows if row.scheme == table["scheme"] and row.round in names]
    return {
        **table,
        "several": len(names) > 1,
        "methods": [
            {
                "key": key,
                "name": title(key),
                "figures": figures,
                "confusion": [
                    {"name": name, "counts": list(zip(classes, counts, strict=True))}
                    for name, counts in zip(classes, figures["confusion"]["counts"], strict=True)
                ],
                "by_round": [figures.get("rounds", {}).get(name) for name in names],
            }
            for key, figures in table["methods"]
        ],
        "against": [{"name": TITLES[key], **comparison} for key, comparison in table["against"]],
        "curves": _curves(f"roc{number}", table["methods"], classes, own),
    }


def title(method: str) -> str:
    return f"{TITLES[method]} on handcrafted features" if method in BASELINES else TITLES[method]


def _curves(
    key: str, methods: Sequence[tuple[str, dict[str, Any]]], classes: Sequence[str], rows: list[HeldOutPrediction]
) -> list[dict[str, Any]]:
    """One chart for each class against the others, one line for each method; one chart alone of two classes."""
    charts = []
    for place, name in enumerate(classes[:1] if len(classes) == 2 else classes[:MOST_CURVES]):
        lines = []
        for method, figures in methods:
            entry = figures["classes"][name]["auc"]
            own = [row for row in rows if row.method == method]
            truth = [row.truth == name for row in own]
            if entry["estimate"] is not None and any(truth) and not all(truth):
                lines.append((TITLES[method], entry, truth, [row.probabilities[name] for row in own]))
        if lines:
            spec, words = roc_chart(lines)
            charts.append(
                {"key": f"{key}-{place}", "title": f"{name} against the others", "spec": spec, "label": words}
            )
    if len(classes) == 2 and charts:
        charts[0]["title"] = f"{classes[0]} against {classes[1]}"
    return charts


def _alone(confounding: dict[str, Any]) -> list[str]:
    """Classes of which every case comes from one source: leaving it out leaves nothing of the class to learn from."""
    return [
        name
        for name, counts in zip(confounding.get("classes", []), confounding.get("counts", []), strict=True)
        if sum(counts) and max(counts) == sum(counts)
    ]


def progress(validation: CrossValidation) -> list[dict[str, Any]]:
    """The rounds of one that has not ended, with how far each is: done, running, waits, or not judged and why."""
    config, cohort = validation.config, validation.reference.cohort
    if not config.get("cross_validation"):
        return []
    made = crossvalidation.rounds(config, cohort, crossvalidation.entries_of(validation.reference, config))
    here = validation.summary.get("round") or []
    over = set(validation.rounds.filter(finished_at__isnull=False).values_list("scheme", "name"))
    running = validation.job is not None and validation.job.state == Job.State.RUNNING
    found, before = [], bool(here)
    for scheme, parts in made.items():
        for part in parts:
            state = "waits"
            if part.problem:
                state = "problem"
            elif (scheme, part.name) in over:
                state = "done"
            elif [scheme, part.name] == here:
                state, before = ("running" if running else "stopped"), False
            elif before:
                state = "done"
            found.append(
                {
                    "name": part.name,
                    "scheme": crossvalidation.SCHEMES[scheme],
                    "training": len(part.training),
                    "test": len(part.test),
                    "state": state,
                    "problem": part.problem,
                }
            )
    return found


def csv_rows(classes: Sequence[str], rows: Iterable[HeldOutPrediction]) -> Iterable[list[Any]]:
    """A head, then one row for each case, scheme and method; cases by their pseudonym."""
    yield ["case", "scheme", "round", "method", "truth", "called", *(f"p({name})" for name in classes)]
    for row in rows:
        called = call(classes, row.probabilities)
        shares = [row.probabilities[name] for name in classes]
        yield [row.case.name, row.scheme, row.round, row.method, row.truth, called, *shares]
