"""Two evaluations of the same cases against the same reference standard: first minus second, case by case."""

from __future__ import annotations

from typing import Any

from inference.evaluation import classification
from inference.evaluation.models import CaseResult, Evaluation
from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.summary import SEED
from portal.accounts.models import User


def of(first: Evaluation, second: Evaluation, user: User) -> dict[str, dict[str, Any]]:
    """{what: entry with estimate, interval, n, method and, for classifiers, p} over the cases that both have and the
    user may see; empty where the reference standards differ."""
    if first.reference_id != second.reference_id:
        return {}
    one, other = _results(first, user), _results(second, user)
    if first.version.manifest["task"] == "classification":
        return _classes(one, other)
    made = {}
    for name in first.summary:
        pairs = [
            (result.values["dice"] - other[key].values["dice"], result.case.cohort_patient.patient_id)
            for key, result in one.items()
            if key[1] == name
            and key in other
            and result.values.get("dice") is not None
            and other[key].values.get("dice") is not None
        ]
        if pairs:
            made[f"Dice, {name}"] = bootstrap_mean(
                [value for value, _ in pairs], patients=[patient for _, patient in pairs], seed=SEED
            ).as_dict()
    return made


def _results(evaluation: Evaluation, user: User) -> dict[tuple[int, str], CaseResult]:
    rows = CaseResult.objects.visible_to(user).filter(evaluation=evaluation).select_related("case__cohort_patient")
    return {(row.case_id, row.structure): row for row in rows.order_by("case_id", "structure")}


def _classes(
    one: dict[tuple[int, str], CaseResult], other: dict[tuple[int, str], CaseResult]
) -> dict[str, dict[str, Any]]:
    shared = sorted({case for case, _ in one} & {case for case, _ in other})
    classes = sorted({name for _, name in one} & {name for _, name in other})
    truth = {case: name for (case, name), row in one.items() if row.present and name in classes}
    shared = [case for case in shared if case in truth]
    if not shared or len(classes) < 2:
        return {}
    first, second = (
        [{name: float(rows[case, name].score or 0) for name in classes} for case in shared] for rows in (one, other)
    )
    found = classification.compare(
        classes,
        [truth[case] for case in shared],
        first,
        second,
        [one[case, classes[0]].case.cohort_patient.patient_id for case in shared],
    )
    made = {"Accuracy": found["accuracy"]}
    for pair in found["pairs"]:
        made[f"AUC, {pair['classes'][0]} against {pair['classes'][1]}"] = pair["auc"]
    return made
