"""The cross-validation of a segmentation as its page shows it: structures, rounds, cases with the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from inference.evaluation.summary import CASE_FIGURES, TOLERANCE_MM
from inference.training import outlines
from inference.training.models import CrossValidation, HeldOutResult
from portal.accounts.models import User
from portal.workbench import distributions

MOST_CASES = 100  # rows of a table of cases; the CSV has them all
CHARTS = (("dice", "Dice", "", True), ("hd95_mm", "Hausdorff distance, 95th percentile", "mm", False))


def shown(validation: CrossValidation, user: User) -> dict[str, Any]:
    """What the template needs."""
    results = list(held_out(validation, user))
    tables = outlines.tables(validation.summary)
    judged = sum(part["judged"] for table in tables for part in table["rounds"])
    seen = len({(result.round_id, result.case_id) for result in results})
    return {
        "tables": [_table(number, table, results) for number, table in enumerate(tables)],
        "tolerance": TOLERANCE_MM,
        "hidden": max(0, judged - seen),
    }


def held_out(validation: CrossValidation, user: User):
    """The figures of each unseen case that the user may see now."""
    rows = HeldOutResult.objects.visible_to(user).filter(round__cross_validation=validation)
    return rows.select_related("case", "round").order_by("round_id", "case__name", "structure")


def _table(number: int, table: dict[str, Any], results: Sequence[HeldOutResult]) -> dict[str, Any]:
    rounds = {part["name"]: part for part in table["rounds"]}
    own = [r for r in results if r.round.scheme == table["scheme"] and r.round.name in rounds]
    learned = {result.pk: result.structure not in rounds[result.round.name]["unseen"] for result in own}
    counted = [result for result in own if learned[result.pk]]
    figures = dict(table["structures"])
    charts = [
        {"key": f"{key}{number}", "title": name, "spec": spec, "label": distributions.words(figures, key, name=name)}
        for key, name, unit, share in CHARTS
        if (spec := distributions.chart(figures, counted, key, name=name, unit=unit, share=share))
    ]
    ranked = sorted(own, key=lambda result: _rank(result, learned=learned[result.pk]))
    methods = sorted({str(entry["dice"]["method"]) for entry in figures.values() if entry["dice"].get("method")})
    return {
        **table,
        "several": len(rounds) > 1,
        "judged": sum(part["judged"] for part in table["rounds"]),
        "patients": sum(part["test_patients"] for part in table["rounds"] if part["judged"]),
        "methods": ", ".join(methods),
        "charts": charts,
        "by_round": [
            {"name": name, "entries": [part["structures"].get(name) for part in table["rounds"]]} for name in figures
        ],
        "cases": [{"result": result, "learned": learned[result.pk]} for result in ranked[:MOST_CASES]],
        "case_rows": len(ranked),
    }


def _rank(result: HeldOutResult, *, learned: bool) -> tuple[bool, float, str, str]:
    """The lowest Dice first; what has none, and what its network never learned, at the end."""
    dice = result.values.get("dice")
    return (not learned or dice is None, 0.0 if dice is None else dice, result.case.name, result.structure)


def csv_rows(results: Iterable[HeldOutResult]) -> Iterable[list[Any]]:
    """A head, then one row for each case, scheme and structure; cases by their pseudonym."""
    yield ["case", "scheme", "round", "structure", "learned", "present", "predicted", "score", *CASE_FIGURES]
    for result in results:
        yield [
            result.case.name,
            result.round.scheme,
            result.round.name,
            result.structure,
            int(result.structure not in result.round.facts.get("unseen", [])),
            int(result.present),
            int(result.predicted),
            result.score,
            *(result.values.get(key) for key in CASE_FIGURES),
        ]
