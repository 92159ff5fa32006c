"""What the page of one evaluation shows, taken from what the evaluation stored.

Nothing is computed anew but the ROC curve, which the stored scores define.
"""

from __future__ import annotations

from collections.abc import Iterable

from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.summary import CASE_FIGURES
from inference.prediction.models import Prediction
from portal.accounts.models import User
from portal.dashboards.figures import FIGURES
from portal.workbench import distributions
from portal.workbench.roc import Line, roc_chart
from studies.models import Embargo, Study

WORST = 12


def case_results(evaluation: Evaluation, user: User) -> tuple[list[CaseResult], int]:
    """Results of cases that the user may see now, and how many cases are held back while a blinded reading is open."""
    rows = evaluation.case_results.select_related("case__study", "case__cohort_patient").order_by(
        "case__name", "case_id", "structure"
    )
    results = list(rows.filter(case__study__in=Study.objects.visible_to(user)))
    studies = {result.case.study_id for result in results}
    held = set(Embargo.objects.filter(user=user, study__in=studies).values_list("study", flat=True))
    hidden = {result.case_id for result in results if result.case.study_id in held}
    return [result for result in results if result.case_id not in hidden], len(hidden)


def figure_rows(evaluation: Evaluation) -> list[dict]:
    """One row per figure with an entry for each structure, in a fixed order; what no structure has is left out."""
    structures = list(evaluation.summary)
    rows = []
    for key, figure in FIGURES.items():
        entries = [evaluation.summary[name].get(key) for name in structures]
        if any(entries):
            methods = sorted({entry["method"] for entry in entries if entry and entry.get("method")})
            rows.append({"figure": figure, "entries": entries, "methods": ", ".join(methods)})
    return rows


def headline(evaluation: Evaluation) -> list[dict]:
    """Dice of each structure, five at most."""
    return [
        {"name": f"Dice, {name}", "entry": figures.get("dice") or {}}
        for name, figures in list(evaluation.summary.items())[:5]
    ]


def distribution(evaluation: Evaluation, results: Iterable[CaseResult], key: str) -> dict | None:
    """The chart of a figure of all cases; None where no case has it."""
    figure = FIGURES[key]
    return distributions.chart(evaluation.summary, results, key, name=figure.name, unit=figure.unit, share=figure.share)


def distribution_label(evaluation: Evaluation, key: str) -> str:
    return distributions.words(evaluation.summary, key, name=FIGURES[key].name)


def roc(evaluation: Evaluation, results: list[CaseResult]) -> tuple[dict | None, str, list[dict]]:
    """The ROC chart, its result in words, and structures that have no curve with the reason."""
    lines: list[Line] = []
    missing = []
    for name, figures in evaluation.summary.items():
        entry = figures.get("auc") or {}
        if entry.get("estimate") is None:
            missing.append({"structure": name, "reason": entry.get("reason") or "not computed"})
            continue
        scored = [row for row in results if row.structure == name and row.score is not None]
        truth = [row.present for row in scored]
        if not any(truth) or all(truth):  # cases were held back from this user
            missing.append({"structure": name, "reason": "too few cases that you may see for a curve"})
            continue
        lines.append((name, entry, truth, [float(row.score) for row in scored]))
    if not lines:
        return None, "", missing
    return *roc_chart(lines), missing


def worst(results: list[CaseResult], limit: int = WORST) -> list[dict]:
    """Cases by their lowest Dice, worst first; a structure missed or invented counts as 0."""
    lowest: dict[int, CaseResult] = {}
    for result in results:
        dice = result.values.get("dice")
        if dice is None:
            continue
        known = lowest.get(result.case_id)
        if known is None or dice < known.values["dice"]:
            lowest[result.case_id] = result
    ranked = sorted(lowest.values(), key=lambda result: (result.values["dice"], result.case.name))
    return [{"result": result, "kind": _kind(result)} for result in ranked[:limit]]


def _kind(result: CaseResult) -> str:
    if result.present and not result.predicted:
        return "missed"
    if result.predicted and not result.present:
        return "false alarm"
    return f"Dice {result.values['dice']:.2f}"


def segmentations(evaluation: Evaluation, user: User, studies: Iterable[int]) -> dict[int, Prediction]:
    """The version's result for each study, where the user may see it."""
    rows = Prediction.objects.visible_to(user).filter(version=evaluation.version, study__in=studies)
    return {row.study_id: row for row in rows}


def csv_rows(results: Iterable[CaseResult]) -> Iterable[list]:
    """A head, then one row per case and structure; cases by their pseudonym."""
    yield ["case", "structure", "present", "predicted", "score", *CASE_FIGURES]
    for result in results:
        yield [
            result.case.name,
            result.structure,
            int(result.present),
            int(result.predicted),
            "" if result.score is None else result.score,
            *("" if result.values.get(key) is None else result.values[key] for key in CASE_FIGURES),
        ]
