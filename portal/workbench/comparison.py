"""Training runs side by side: where they come from, how their settings differ, their curves, their figures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.evaluation import differences
from inference.evaluation.models import Evaluation
from inference.jobs.models import JobMetric
from inference.training import toml
from inference.training.config import SECTIONS, TOP, Config
from inference.training.earlier import MEMORY
from inference.training.models import TrainingRun
from portal.accounts.models import User
from portal.frame.templatetags.components import duration, number
from portal.workbench import validation_figures
from portal.workbench.curves import Curve, overlaid
from studies.cohorts.models import Split

LEAST, MOST = 2, 6
ENVIRONMENT = {
    "python": "Python",
    "torch": "PyTorch",
    "monai": "MONAI",
    "lightning": "Lightning",
    "numpy": "NumPy",
    "device": "Device",
    "threads": "Threads",
}


@dataclass
class Row:
    """One line of the page: a value for each run, as text or as an entry with its interval."""

    name: str
    values: list[Any]
    entries: bool = False

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values[1:])


@dataclass
class Comparison:
    runs: list[TrainingRun]
    warnings: list[str] = field(default_factory=list)
    provenance: list[Row] = field(default_factory=list)
    settings: list[Row] = field(default_factory=list)
    figures: list[Row] = field(default_factory=list)
    differences: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


def build(runs: Sequence[TrainingRun], user: User) -> Comparison:
    """runs: visible to the user, with reference, cohort, job and version."""
    series = _series(runs)
    evaluations = _evaluations(runs, user)
    made = Comparison(list(runs), provenance=_provenance(runs, series), settings=_settings(runs))
    made.warnings = _warnings(runs, made.provenance)
    made.figures = [*_validation(runs), *_test(runs, evaluations)]
    made.differences = _differences(runs, evaluations, user)
    labels = [f"{run.pk} {run.name}" for run in runs]
    made.curves = overlaid([{n: p for n, p in own.items() if n != MEMORY} for own in series], labels)
    return made


def _series(runs: Sequence[TrainingRun]) -> list[dict[str, dict[int, float]]]:
    """For each run its metrics: name → step → value."""
    of_job: dict[int, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    rows = JobMetric.objects.filter(job__in=[run.job_id for run in runs if run.job_id]).order_by("id")
    for job, name, step, value in rows.values_list("job", "name", "step", "value"):
        if math.isfinite(value):
            of_job[job][name][step] = value
    return [of_job.get(run.job_id or 0, {}) for run in runs]


def _provenance(runs: Sequence[TrainingRun], series: Sequence[dict[str, dict[int, float]]]) -> list[Row]:
    facts = [run.version.manifest.get("training", {}) if run.version else {} for run in runs]
    environments = [run.environment or {} for run in runs]
    memory = [max(own[MEMORY].values()) if own.get(MEMORY) else None for own in series]
    used = [f"{number(value, 1)} GB" if value is not None else "not measured" for value in memory]
    rows = [
        Row("Cohort", [run.reference.cohort.name for run in runs]),
        Row("Cohort digest", [run.cohort_digest[:16] for run in runs]),
        Row("Reference standard", [str(run.reference) for run in runs]),
        Row("Training cases", [_cases(own) for own in facts]),
        Row("State", [run.job.get_state_display() if run.job else "" for run in runs]),
        Row("Model version", [str(run.version or "none") for run in runs]),
        Row("Epochs", [str(own.get("epochs", "–")) for own in facts]),
        Row("Training time", [duration(own.get("seconds")) for own in facts]),
        Row("Memory at its peak", used),
        Row("Code version", [str(own.get("code", "–"))[:12] for own in environments]),
    ]
    return rows + [Row(title, [str(own.get(key, "–")) for own in environments]) for key, title in ENVIRONMENT.items()]


def _cases(facts: dict[str, Any]) -> str:
    if "training_cases" not in facts:
        return "–"
    return f"{facts['training_cases']} of {facts['training_patients']} patients"


def flat(config: Config) -> dict[str, str]:
    """Every setting by its place, as TOML writes values; preprocessing step by step."""
    made = {key: toml.value_text(config[key]) for key in TOP if key in config}
    for section, rules in SECTIONS.items():
        values = config.get(section, {})
        made |= {f"{section}.{key}": toml.value_text(values[key]) for key in rules if key in values}
    parameters = config.get("network", {}).get("parameters", {})
    made |= {f"network.{key}": toml.value_text(value) for key, value in parameters.items()}
    for place, step in enumerate(config.get("preprocessing", []), start=1):
        others = ", ".join(f"{key} {toml.value_text(value)}" for key, value in step.items() if key != "name")
        made[f"preprocessing {place}"] = f"{step['name']}{': ' if others else ''}{others}"
    return made


def _settings(runs: Sequence[TrainingRun]) -> list[Row]:
    configs = [flat(run.config) for run in runs]
    places = list(dict.fromkeys(place for config in configs for place in config))
    order = [*TOP, *SECTIONS, "preprocessing"]
    places.sort(key=lambda place: order.index(place.split(".")[0].split(" ")[0]))
    return [Row(place, [config.get(place, "–") for config in configs]) for place in places]


def _warnings(runs: Sequence[TrainingRun], provenance: Sequence[Row]) -> list[str]:
    differs = {row.name for row in provenance if row.differs}
    said = []
    if "Cohort digest" in differs:
        said.append(
            "The runs were trained on different cohorts. Their figures are of different cases and cannot be compared."
        )
    elif len({run.reference_id for run in runs}) > 1:
        said.append("The runs were trained and judged against different reference standards.")
    if "Code version" in differs:
        said.append("The runs were made by different versions of the code.")
    if len({run.config.get("task") for run in runs}) > 1:
        said.append("The runs do different things: some give classes, others outlines.")
    return said


def _validation(runs: Sequence[TrainingRun]) -> list[Row]:
    """Figures of the validation patients, as the manifest of each version holds them."""
    return _rows("validation", [validation_figures.of(run.version.manifest) if run.version else {} for run in runs])


def _evaluations(runs: Sequence[TrainingRun], user: User) -> list[Evaluation | None]:
    """The newest evaluation of each run's version on the test patients of its own reference standard."""
    versions = [run.version_id for run in runs if run.version_id]
    rows = (
        Evaluation.objects.visible_to(user)
        .filter(version__in=versions, split=Split.TEST, finished_at__isnull=False)
        .select_related("version")
        .order_by("pk")
    )
    newest = {(row.version_id, row.reference_id): row for row in rows}
    return [newest.get((run.version_id, run.reference_id)) if run.version_id else None for run in runs]


def _test(runs: Sequence[TrainingRun], evaluations: Sequence[Evaluation | None]) -> list[Row]:
    found: list[dict[str, Any]] = []
    for evaluation in evaluations:
        own: dict[str, Any] = {}
        for name, figures in (evaluation.summary if evaluation else {}).items():
            for key, title in (("dice", "Dice"), ("auc", "AUC"), ("froc_score", "FROC score")):
                entry = figures.get(key) or {}
                if entry.get("estimate") is not None:
                    own[f"{title}, {name}"] = entry
        found.append(own)
    return _rows("test", found)


def _rows(side: str, found: Sequence[dict[str, Any]]) -> list[Row]:
    names = list(dict.fromkeys(name for own in found for name in own))
    return [Row(f"{name}, {side} patients", [own.get(name) for own in found], entries=True) for name in names]


def _differences(runs: Sequence[TrainingRun], evaluations: Sequence[Evaluation | None], user: User) -> list[Row]:
    """Each run minus the first on the same test cases."""
    first = evaluations[0]
    found: list[dict[str, Any]] = [{}]
    for other in evaluations[1:]:
        found.append(differences.of(other, first, user) if first and other else {})
    names = list(dict.fromkeys(name for own in found for name in own))
    return [Row(name, [own.get(name) for own in found], entries=True) for name in names]


def table(made: Comparison) -> Iterable[list[Any]]:
    """For CSV: a head with the runs, then a line for each row; entries as estimate, bounds and n in one cell."""
    yield ["section", "name", *(f"run {run.pk}" for run in made.runs)]
    for section in ("provenance", "settings", "figures", "differences"):
        for row in getattr(made, section):
            yield [section, row.name, *(_cell(value) if row.entries else value for value in row.values)]


def _cell(entry: dict[str, Any] | None) -> str:
    if not entry or entry.get("estimate") is None:
        return ""
    if entry.get("lower") is None:
        return f"{entry['estimate']:.4f} n={entry['n']}"
    return f"{entry['estimate']:.4f} [{entry['lower']:.4f} to {entry['upper']:.4f}] n={entry['n']}"


def report(made: Comparison) -> dict[str, Any]:
    """For a program to read."""
    return {
        "runs": [{"id": run.pk, "name": run.name, "version": run.version_id, "job": run.job_id} for run in made.runs],
        "warnings": made.warnings,
        **{
            section: {row.name: row.values for row in getattr(made, section)}
            for section in ("provenance", "settings", "figures", "differences")
        },
    }
