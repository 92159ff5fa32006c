"""What the cross-validation of a segmentation keeps: what each round learned before its fit, the figures of its cases
as soon as it is over, and the summary. The only writers of `ValidationRound` and `HeldOutResult`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from inference.evaluation import summary
from inference.evaluation.statistics.interval import undefined
from inference.evaluation.summary import CaseFigures
from inference.training.config import Config, check
from inference.training.crossvalidation import SCHEMES
from inference.training.models import CrossValidation, HeldOutResult, ValidationRound
from inference.training.partitions import Round
from studies.cohorts.models import ReferenceLabel

OF_ROUND = ("dice", "hd95_mm", "nsd")  # what is summarised of each fold by itself
NEVER_SEEN = "never seen in training"


@dataclass(frozen=True)
class Judged:
    """What one round found.

    measured: each case that could be judged, with the figures of its structures. failed: the others, with cause and
    next step. unseen: structures that no training case of the round shows, so that nothing was learned of them. facts:
    epochs, seconds and the like. problem: why no case was judged, in words, or empty.
    """

    measured: list[tuple[ReferenceLabel, dict[str, CaseFigures]]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def begin(validation: CrossValidation, scheme: str, name: str) -> ValidationRound:
    """The row of a round, which an earlier attempt may have begun or finished."""
    return ValidationRound.objects.get_or_create(cross_validation=validation, scheme=scheme, name=name)[0]


def note_learned(row: ValidationRound, config: Config) -> Config:
    """Write down the configuration as the round's training patients completed it: an attempt that goes on uses it."""
    row.config = check(config)
    row.save(update_fields=["config"])
    return row.config


def keep(row: ValidationRound, judged: Judged) -> None:
    """Write the figures of a round down, and that it is over. Call it in the job's own transaction."""
    row.results.all().delete()
    HeldOutResult.objects.bulk_create(
        [
            HeldOutResult(
                round=row,
                case=entry.case,
                structure=name,
                values=figure.values,
                present=figure.present,
                predicted=figure.predicted,
                score=figure.score,
            )
            for entry, figures in judged.measured
            for name, figure in figures.items()
        ],
        batch_size=2000,
    )
    row.facts = {**judged.facts, "unseen": judged.unseen, "failed": judged.failed, "problem": judged.problem}
    row.finished_at = timezone.now()
    row.save(update_fields=["facts", "finished_at"])


def finish(validation: CrossValidation, structures: Sequence[str], made: Mapping[str, Sequence[Round]]) -> None:
    """Write the summary from what the rounds kept. Call it in the job's own transaction."""
    rows = {(row.scheme, row.name): row for row in validation.rounds.all()}
    figures: dict[int, dict[str, list[CaseFigures]]] = {row.pk: {} for row in rows.values()}
    kept = HeldOutResult.objects.filter(round__cross_validation=validation)
    for result in kept.select_related("case__cohort_patient").order_by("case__name", "case_id"):
        figures[result.round_id].setdefault(result.structure, []).append(_figures(result))
    schemes: dict[str, Any] = {}
    for scheme, parts in made.items():
        rounds = []
        pooled: dict[str, list[CaseFigures]] = {name: [] for name in structures}
        left_out = dict.fromkeys(structures, 0)
        for part in parts:
            row = rows.get((scheme, part.name))
            own = figures[row.pk] if row else {}
            facts = row.facts if row else {}
            unseen = facts.get("unseen", [])
            for name in structures:
                if name in unseen:
                    left_out[name] += len(own.get(name, []))
                else:
                    pooled[name] += own.get(name, [])
            means = OF_ROUND if scheme == "folds" else summary.MEANS
            rounds.append(_of_round(part, structures, own, facts, means))
        schemes[scheme] = {
            "title": SCHEMES[scheme],
            # Networks that learned from different sources are not pooled; each source is a test of its own.
            "structures": {name: {**summary.summarise(pooled[name]), "left_out": left_out[name]} for name in structures}
            if scheme == "folds"
            else {},
            "rounds": rounds,
        }
    seconds = round(sum(row.facts.get("seconds", 0) for row in rows.values()), 1)
    validation.summary = {"structures": list(structures), "schemes": schemes, "seconds": seconds}
    validation.finished_at = timezone.now()
    validation.save(update_fields=["summary", "finished_at"])


def _figures(result: HeldOutResult) -> CaseFigures:
    return CaseFigures(
        case=result.case.name,
        patient=result.case.cohort_patient.patient_id,
        present=result.present,
        predicted=result.predicted,
        score=result.score,
        values=result.values,
    )


def _of_round(
    part: Round,
    structures: Sequence[str],
    own: Mapping[str, list[CaseFigures]],
    facts: Mapping[str, Any],
    means: Sequence[str],
) -> dict[str, Any]:
    unseen = facts.get("unseen", [])
    problem = part.problem or facts.get("problem", "")
    return {
        "name": part.name,
        "training": len(part.training),
        "test": len(part.test),
        "test_patients": part.test_patients,
        "judged": max((len(cases) for cases in own.values()), default=0),
        "unseen": unseen,
        "problem": problem,
        "failed": facts.get("failed", []),
        **{key: facts[key] for key in ("epochs", "steps", "seconds", "inner_validation", "learned") if key in facts},
        "structures": {}
        if problem
        else {
            name: {key: undefined(NEVER_SEEN) for key in (*means, "case_sensitivity", "case_specificity", "auc")}
            if name in unseen
            else summary.summarise(own.get(name, []), means)
            for name in structures
        },
    }


def tables(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What may be read together: all folds, but each left-out source by itself.

    Each table has scheme, title, its rounds and (structure, figures) in the order of the structures. found: the summary
    of a cross-validation.
    """
    made: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        entry = found["schemes"].get(scheme)
        if not entry:
            continue
        if scheme == "folds":
            made.append(_table(scheme, entry["title"], entry["rounds"], entry["structures"], found["structures"]))
        else:
            made += [
                _table(scheme, part["name"], [part], part["structures"], found["structures"])
                for part in entry["rounds"]
            ]
    return made


def _table(
    scheme: str, title: str, rounds: list[dict[str, Any]], figures: Mapping[str, Any], structures: Sequence[str]
) -> dict[str, Any]:
    judged = any(part["judged"] for part in rounds)
    return {
        "scheme": scheme,
        "title": title,
        "rounds": rounds,
        "structures": [(name, figures[name]) for name in structures if name in figures] if judged else [],
    }
