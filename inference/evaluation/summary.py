"""From two label maps to figures, and from the figures of all cases to a summary with intervals.

No database. The summary is `{structure: {figure: {"estimate", "lower", "upper", "n", "method", …}}}`; a figure that
does not exist has `"estimate": None` and a `reason`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference.evaluation.metrics import overlap
from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.statistics.interval import undefined
from inference.evaluation.statistics.proportions import wilson
from inference.evaluation.statistics.roc import delong_interval

TOLERANCE_MM = 1.0
SEED = 20_240_101  # of the bootstrap, so that the same cases always give the same interval
MEANS = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "specificity",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_difference_ml",
    "absolute_volume_difference_ml",
)

# What a table of cases shows of each.
CASE_FIGURES = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "specificity",
    "nsd",
    "hd95_mm",
    "assd_mm",
    "volume_reference_ml",
    "volume_predicted_ml",
    "tp",
    "fp",
    "fn",
    "tn",
)


@dataclass(frozen=True)
class CaseFigures:
    """One structure in one case. `patient` groups cases for the bootstrap; `values` are None where undefined."""

    case: str
    patient: int
    present: bool
    predicted: bool
    score: float | None
    values: dict[str, Any] = field(default_factory=dict)


def compare(reference: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]) -> dict[str, Any]:
    """Figures for two boolean arrays [z, y, x]; spacing (z, y, x) in mm.

    Voxel counts, overlap (see `metrics.overlap` for empty masks), surface distances in mm and volumes in ml. HD95 and
    ASSD are None where one mask is empty; NSD is then 0, and None where both are. The volume difference is predicted
    minus reference.
    """
    counts = overlap.count(reference, predicted)
    millilitres = float(np.prod(spacing)) / 1000
    volume, found = (counts.tp + counts.fn) * millilitres, (counts.tp + counts.fp) * millilitres
    from inference.evaluation.metrics.surface import surface_distances  # loads MONAI, which takes seconds

    distances = surface_distances(reference, predicted, spacing)
    one_empty = (volume > 0) != (found > 0)
    return {
        "dice": overlap.dice_of(counts),
        "iou": overlap.iou_of(counts),
        "sensitivity": overlap.sensitivity_of(counts),
        "precision": overlap.precision_of(counts),
        "specificity": overlap.specificity_of(counts),
        "hd95_mm": distances.hausdorff(95) if distances else None,
        "assd_mm": distances.average() if distances else None,
        "nsd": distances.normalised_surface_dice(TOLERANCE_MM) if distances else (0.0 if one_empty else None),
        "volume_reference_ml": volume,
        "volume_predicted_ml": found,
        "volume_difference_ml": found - volume,
        "absolute_volume_difference_ml": abs(found - volume),
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
        "tn": counts.tn,
    }


def of_masks(
    case: str,
    patient: int,
    masks: Mapping[str, Sequence[np.ndarray]],
    spacing: Sequence[float],
    *,
    scores: Mapping[str, float],
    limits: Mapping[str, float],
) -> dict[str, CaseFigures]:
    """The figures of one case.

    masks: structure → (reference, predicted), boolean arrays [z, y, x]; spacing (z, y, x) in mm. A structure counts as
    found from its limit of the score on, or, without a score, where a voxel is marked.
    """
    figures = {}
    for name, (wanted, seen) in masks.items():
        score = scores.get(name)
        figures[name] = CaseFigures(
            case=case,
            patient=patient,
            present=bool(wanted.any()),
            predicted=score >= limits[name] if score is not None else bool(seen.any()),
            score=score,
            values=compare(wanted, seen, spacing),
        )
    return figures


def summarise(cases: Sequence[CaseFigures], means: Sequence[str] = MEANS) -> dict[str, Any]:
    """The figures of one structure over all cases, each with its interval."""
    summary: dict[str, Any] = {}
    for name in means:
        known = [(case.values[name], case.patient) for case in cases if case.values.get(name) is not None]
        if known:
            summary[name] = bootstrap_mean(
                [value for value, _ in known], patients=[patient for _, patient in known], seed=SEED
            ).as_dict()
            if len(known) < len(cases):
                summary[name]["undefined"] = len(cases) - len(known)
        else:
            summary[name] = undefined("undefined in every case", len(cases))
    if "nsd" in summary:
        summary["nsd"]["tolerance_mm"] = TOLERANCE_MM
    return {**summary, **cases_and_auc(cases)}


def cases_and_auc(cases: Sequence[CaseFigures]) -> dict[str, Any]:
    """Whether the cases with the structure were told from the others: sensitivity, specificity and AUC."""
    return {
        "case_sensitivity": _share([case.predicted for case in cases if case.present], "no case holds it"),
        "case_specificity": _share(
            [not case.predicted for case in cases if not case.present], f"all {len(cases)} cases hold this structure"
        ),
        "auc": _auc(cases),
    }


def _share(hits: list[bool], reason: str) -> dict[str, Any]:
    return wilson(sum(hits), len(hits)).as_dict() if hits else undefined(reason)


def _auc(cases: Sequence[CaseFigures]) -> dict[str, Any]:
    scored = [(case.present, case.score) for case in cases if case.score is not None]
    if not scored:
        return undefined("the model gives no scores")
    truth = [present for present, _ in scored]
    if all(truth):
        return undefined(f"all {len(truth)} cases hold this structure", len(truth))
    if not any(truth):
        return undefined(f"none of the {len(truth)} cases holds this structure", len(truth))
    return delong_interval(truth, [float(score) for _, score in scored]).as_dict()
