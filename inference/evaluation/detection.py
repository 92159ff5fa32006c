"""From boxes and lesions of all cases to figures with intervals; no database.

A box hits a lesion where they overlap by `OVERLAP` or more (intersection over union), see `metrics.detection.match`.
Intervals are bootstrap percentiles: patients are drawn with replacement and bring all their images.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from inference.evaluation.metrics import detection
from inference.evaluation.metrics.detection import RATES, Marks
from inference.evaluation.statistics.bootstrap import bootstrap_mean, bootstrap_over
from inference.evaluation.statistics.interval import CONFIDENCE, Interval, undefined
from inference.evaluation.summary import SEED, CaseFigures, cases_and_auc

OVERLAP = 0.1
MATCHING = (
    f"A box hits the lesion that it overlaps most, where intersection over union is {OVERLAP:g} or more; each "
    "lesion is hit once, by its most probable box. A point hits the lesion that it lies in."
)
RATE_KEYS = {f"sensitivity_{str(rate).replace('.', '_').removesuffix('_0')}": rate for rate in RATES}


def compare(found: np.ndarray, scores: Sequence[float], lesions: np.ndarray, threshold: float) -> dict[str, Any]:
    """Figures of one label in one image: boxes [n, 2, 3] and lesions [m, 2, 3], both in mm or voxels.

    threshold: score from which a box counts in `found` and `false_positives`; `marks` keeps all.
    """
    marks = detection.match(found, scores, lesions, overlap=OVERLAP)
    kept = {"scores": marks.scores.tolist(), "hit": marks.hit.tolist(), "again": marks.again.tolist()}
    return {**_counts(marks, threshold), "marks": kept}


def _counts(marks: Marks, threshold: float) -> dict[str, int]:
    kept = marks.scores >= threshold
    return {
        "lesions": marks.lesions,
        "found": int((kept & (marks.hit >= 0) & ~marks.again).sum()),
        "false_positives": int((kept & (marks.hit < 0)).sum()),
    }


def marks_of(values: dict[str, Any]) -> Marks:
    """As `compare` kept them."""
    kept = values["marks"]
    return Marks(
        np.array(kept["scores"], dtype=float),
        np.array(kept["hit"], dtype=int),
        np.array(kept["again"], dtype=bool),
        int(values["lesions"]),
    )


def froc_score(marks: Sequence[Marks], patients: Sequence[Hashable]) -> dict[str, Any]:
    """The FROC score of one label with its interval; patients: whose each image is."""
    if not any(image.lesions for image in marks):
        return undefined(f"none of the {len(marks)} cases has a lesion", len(marks))

    def score(chosen: Sequence[int]) -> list[float]:
        images = [marks[place] for place in chosen]
        return [detection.mean_sensitivity(images) if any(image.lesions for image in images) else float("nan")]

    return bootstrap_over(score, patients, seed=SEED)[0].as_dict()


def summarise(cases: Sequence[CaseFigures]) -> dict[str, Any]:
    """The figures of one label over all cases, each with its interval."""
    marks = [marks_of(case.values) for case in cases]
    patients = [case.patient for case in cases]
    lesions = sum(image.lesions for image in marks)
    names = ["froc_score", "average_precision", *RATE_KEYS]
    made: dict[str, Any] = {}
    if lesions:

        def figures(chosen: Sequence[int]) -> list[float]:
            images = [marks[place] for place in chosen]
            if not any(image.lesions for image in images):
                return [float("nan")] * len(names)
            rates = detection.sensitivities(images).tolist()
            return [sum(rates) / len(rates), detection.average_precision(images), *rates]

        for name, entry in zip(names, bootstrap_over(figures, patients, seed=SEED), strict=True):
            made[name] = {**entry.as_dict(), "lesions": lesions}
    else:
        made |= {name: undefined(f"none of the {len(cases)} cases has a lesion") for name in names}
    if lesions and not all(image.lesions for image in marks):
        made["afroc"] = bootstrap_over(lambda chosen: [_afroc([marks[n] for n in chosen])], patients, seed=SEED)[
            0
        ].as_dict()
    else:
        made["afroc"] = undefined("needs images with and without lesions", len(cases))
    return {**made, **_at_operating_threshold(cases)}


def at_threshold(cases: Sequence[CaseFigures], threshold: float) -> dict[str, Any]:
    """The figures of one label that depend on a threshold, as `summarise` has them, for boxes from this score on."""
    changed = []
    for case in cases:
        marks = marks_of(case.values)
        values = {**case.values, **_counts(marks, threshold)}
        changed.append(replace(case, values=values, predicted=bool((marks.scores >= threshold).any())))
    return _at_operating_threshold(changed)


def threshold_at(cases: Sequence[CaseFigures], rate: float) -> float | None:
    """The least score from which at most `rate` false boxes an image are left; None where no case has a lesion."""
    marks = [marks_of(case.values) for case in cases]
    if not any(image.lesions for image in marks):
        return None
    x, _, thresholds = detection.froc(marks)
    within = np.flatnonzero((x <= rate) & np.isfinite(thresholds))
    return float(thresholds[within[-1]]) if len(within) else None


def _at_operating_threshold(cases: Sequence[CaseFigures]) -> dict[str, Any]:
    if any(case.values["lesions"] for case in cases):
        found = _share_of_lesions(cases)
    else:
        found = undefined(f"none of the {len(cases)} cases has a lesion")
    return {
        "lesion_sensitivity": found,
        "false_positives_per_image": _false_positives(cases).as_dict(),
        **cases_and_auc(cases),
    }


def _false_positives(cases: Sequence[CaseFigures]) -> Interval:
    """Mean over the images. Where there is none at all, a bootstrap would say that there never is one; then the exact
    interval of a Poisson count of 0 holds, 0 to -ln(0.025) / n (Garwood, Biometrika 1936;28:437)."""
    counts = [case.values["false_positives"] for case in cases]
    if cases and not any(counts):
        highest = -math.log((1 - CONFIDENCE) / 2) / len(cases)
        return Interval(0.0, 0.0, highest, len(cases), f"exact Poisson interval over {len(cases)} images")
    return bootstrap_mean(counts, patients=[case.patient for case in cases], seed=SEED)


def _share_of_lesions(cases: Sequence[CaseFigures]) -> dict[str, Any]:
    """Lesions found at the operating threshold, of all lesions."""

    def share(chosen: Sequence[int]) -> list[float]:
        lesions = sum(cases[place].values["lesions"] for place in chosen)
        return [sum(cases[place].values["found"] for place in chosen) / lesions if lesions else float("nan")]

    found = bootstrap_over(share, [case.patient for case in cases], seed=SEED)[0]
    return {**found.as_dict(), "lesions": sum(case.values["lesions"] for case in cases)}


def _afroc(marks: Sequence[Marks]) -> float:
    both = any(image.lesions for image in marks) and not all(image.lesions for image in marks)
    return detection.afroc(marks) if both else float("nan")


def curve(cases: Sequence[CaseFigures]) -> dict[str, list[float]] | None:
    """The FROC curve of one label: false positives per image, sensitivity, threshold; None without lesions."""
    marks = [marks_of(case.values) for case in cases]
    if not any(image.lesions for image in marks):
        return None
    x, y, thresholds = detection.froc(marks)
    return {"x": x.tolist(), "y": y.tolist(), "thresholds": thresholds.tolist()}
