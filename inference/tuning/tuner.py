"""Which settings to try next, and when to give up on a trial: Optuna, told the whole history each time.

Nothing is kept in Optuna's own storage: the trials are rows of the database, and a study is made of them. The proposal
depends on the seed, the trial's number and the history alone, so an interrupted search goes on as an unbroken one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from inference.tuning.space import Search

optuna.logging.set_verbosity(optuna.logging.WARNING)
STARTUP_TRIALS = 5  # at random before the sampler learns, and before anything is given up
PATIENCE = 1  # validations that decide nothing


@dataclass(frozen=True)
class Past:
    """A trial that ended. value: validation figure, higher is better; None where it failed. curve: step → figure."""

    values: dict[str, Any]
    value: float | None
    pruned: bool = False
    curve: dict[int, float] = field(default_factory=dict)


class Proposal:
    """A trial under way. values: key of the configuration → value."""

    def __init__(
        self, search: Search, history: Sequence[Past], *, seed: int, number: int, values: dict[str, Any] | None = None
    ) -> None:
        """values: those of a trial that was interrupted."""
        self._space, self._prune, self._reports = search["space"], search["prune"], 0
        distributions = {key: _distribution(entry) for key, entry in self._space.items()}
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=(seed + 1) * 100_003 + number, n_startup_trials=STARTUP_TRIALS),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS - 1),
        )
        study.add_trials([_frozen(past, distributions) for past in history if past.value is not None or past.pruned])
        if values is not None:
            study.enqueue_trial(_stored(values, distributions))
        self._trial = study.ask(distributions)
        self.values = _spoken(self._trial.params, distributions)

    def report(self, step: int, value: float) -> bool:
        """Whether the trial lies below the median of the earlier ones at this step, so that it is not worth more."""
        self._trial.report(value, step)
        self._reports += 1
        return bool(self._prune and self._reports > PATIENCE and self._trial.should_prune())


def _distribution(entry: dict[str, Any]) -> BaseDistribution:
    if "choices" in entry:
        # As text: a choice may be a list, such as a patch.
        return CategoricalDistribution([json.dumps(choice) for choice in entry["choices"]])
    if entry["whole"]:
        return IntDistribution(entry["low"], entry["high"], log=entry["log"], step=int(entry["step"] or 1))
    return FloatDistribution(entry["low"], entry["high"], log=entry["log"], step=entry["step"])


def _frozen(past: Past, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if past.pruned else TrialState.COMPLETE,
        params=_stored(past.values, distributions),
        distributions=distributions,
        value=past.value,
        intermediate_values=past.curve,
    )


def _stored(values: dict[str, Any], distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    return {
        key: json.dumps(value) if isinstance(distributions[key], CategoricalDistribution) else value
        for key, value in values.items()
    }


def _spoken(params: dict[str, Any], distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    return {
        key: json.loads(params[key]) if isinstance(distributions[key], CategoricalDistribution) else params[key]
        for key in distributions
    }
