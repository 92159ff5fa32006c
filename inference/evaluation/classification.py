"""From class probabilities to figures with intervals; no database.

AUC with DeLong's interval, sensitivity and specificity with Wilson's, accuracy with a bootstrap over patients. DeLong
and Wilson take cases as independent; where patients bring several images their intervals are somewhat too narrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats.contingency import association

from inference.evaluation.statistics.bootstrap import bootstrap_mean
from inference.evaluation.statistics.interval import undefined
from inference.evaluation.statistics.paired import accuracy_test, delong_test
from inference.evaluation.statistics.proportions import wilson
from inference.evaluation.statistics.roc import delong_interval
from inference.evaluation.summary import SEED

CONFOUNDED = 0.3  # Cramér's V from which class and source are said to go together


def summarise(
    classes: Sequence[str],
    truth: Sequence[str],
    probabilities: Sequence[Mapping[str, float]],
    patients: Sequence[int],
) -> dict[str, Any]:
    """Accuracy, confusion matrix, figures of each class against the others, and AUC of each pair of classes.

    A pair's AUC compares p(first) / (p(first) + p(second)) on the cases of these two classes.
    """
    predicted = [call(classes, row) for row in probabilities]
    counts = [[sum(t == a and p == b for t, p in zip(truth, predicted, strict=True)) for b in classes] for a in classes]
    hits = [float(t == p) for t, p in zip(truth, predicted, strict=True)]
    most = Counter(truth).most_common(1)
    return {
        "n": len(truth),
        "patients": len(set(patients)),
        "accuracy": _accuracy(hits, patients) if hits else undefined("no case"),
        "majority": {"class": most[0][0], "share": most[0][1] / len(truth)} if most else None,
        "confusion": {"classes": list(classes), "counts": counts},
        "classes": {
            name: {
                "auc": _auc(truth, [row[name] for row in probabilities], name),
                "sensitivity": _share(
                    [p == name for t, p in zip(truth, predicted, strict=True) if t == name], f"no case is {name}"
                ),
                "specificity": _share(
                    [p != name for t, p in zip(truth, predicted, strict=True) if t != name], f"every case is {name}"
                ),
            }
            for name in classes
        },
        "pairs": [{"classes": [a, b], "auc": _pair(a, b, truth, probabilities)} for a, b in combinations(classes, 2)],
    }


def _accuracy(hits: list[float], patients: Sequence[int]) -> dict[str, Any]:
    """Without an interval where all cases are right, or all wrong: resampling them says nothing about others."""
    found = bootstrap_mean(hits, patients=list(patients), seed=SEED).as_dict()
    if min(hits) == max(hits):
        found |= {"lower": None, "upper": None, "method": f"{found['method']}: no variance"}
    return found


def call(classes: Sequence[str], row: Mapping[str, float]) -> str:
    """The likeliest class; of equals the first."""
    return max(classes, key=lambda name: row[name])


def compare(
    classes: Sequence[str],
    truth: Sequence[str],
    first: Sequence[Mapping[str, float]],
    second: Sequence[Mapping[str, float]],
    patients: Sequence[int],
) -> dict[str, Any]:
    """First minus second on the same cases: accuracy (bootstrap over patients, McNemar) and each pair's AUC (DeLong).

    {"accuracy": comparison, "pairs": [{"classes": [a, b], "auc": comparison}]}; see `statistics.paired`.
    """
    right_first, right_second = (
        [call(classes, row) == t for t, row in zip(truth, rows, strict=True)] for rows in (first, second)
    )
    pairs = []
    for a, b in combinations(classes, 2):
        kept = [number for number, t in enumerate(truth) if t in (a, b)]
        positive = [truth[number] == a for number in kept]
        scores = [[_between(rows[number], a, b) for number in kept] for rows in (first, second)]
        if min(sum(positive), len(positive) - sum(positive)) < 2:
            found = {**undefined(f"fewer than two cases of {a} or {b}", len(kept)), "p": None}
        else:
            found = delong_test(positive, *scores).as_dict()
        pairs.append({"classes": [a, b], "auc": found})
    return {
        "accuracy": accuracy_test(right_first, right_second, list(patients), seed=SEED).as_dict()
        if truth
        else {**undefined("no case"), "p": None},
        "pairs": pairs,
    }


def _between(row: Mapping[str, float], a: str, b: str) -> float:
    """The score by which a pair of classes is told apart."""
    return row[a] / (row[a] + row[b]) if row[a] + row[b] > 0 else 0.5


def _auc(truth: Sequence[str], scores: Sequence[float], name: str) -> dict[str, Any]:
    positive = [t == name for t in truth]
    if all(positive) or not any(positive):
        return undefined(f"{'every' if positive and positive[0] else 'no'} case is {name}", len(positive))
    return delong_interval(positive, list(scores)).as_dict()


def _pair(a: str, b: str, truth: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    rows = [(t, row) for t, row in zip(truth, probabilities, strict=True) if t in (a, b)]
    scores = [_between(row, a, b) for _, row in rows]
    if {t for t, _ in rows} != {a, b}:
        return undefined(f"no cases of both {a} and {b}", len(rows))
    return delong_interval([t == a for t, _ in rows], scores).as_dict()


def _share(hits: list[bool], reason: str) -> dict[str, Any]:
    return wilson(sum(hits), len(hits)).as_dict() if hits else undefined(reason)


def confounding(truth: Sequence[str], sources: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """How far class and source go together: counts [class][source], Cramér's V, and a warning in words, or ""."""
    names = sorted(set(sources))
    table = np.array(
        [[sum(t == c and s == n for t, s in zip(truth, sources, strict=True)) for n in names] for c in classes]
    )
    kept = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    strength = float(association(kept, method="cramer")) if min(kept.shape, default=0) > 1 else 0.0
    warning = ""
    if strength >= CONFOUNDED:
        parts = []
        for name, row in zip(classes, table.tolist(), strict=True):
            top = int(np.argmax(row))
            if sum(row):
                parts.append(f"{row[top]} of {sum(row)} {name} cases come from {names[top]}")
        warning = (
            f"Class and source go together (Cramér's V {strength:.2f}): {'; '.join(parts)}. A model can tell the "
            "classes apart by how a source makes its images, so figures within these sources say little about images "
            "from elsewhere."
        )
    return {
        "sources": names,
        "classes": list(classes),
        "counts": table.tolist(),
        "cramers_v": strength,
        "warning": warning,
    }
