"""Searches for settings and for a learning rate; the only writers of `SettingsSearch` and `Trial`.

Both see training and validation patients alone. The best of many trials on the same validation patients looks better
than it is: what it is worth is told by the test patients, once, after the choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from inference.errors import InferenceError, TrainingError
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.training import services as training
from inference.training import sets
from inference.training.config import Config, check
from inference.training.models import TrainingRun
from inference.tuning import space
from inference.tuning.models import SettingsSearch, Trial
from inference.tuning.space import Search
from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.cohorts.models import Cohort, ReferenceStandard, Split

if TYPE_CHECKING:  # torch and Optuna take seconds to load; pages that start a search do without
    from inference.tuning.fitting import Judged
    from inference.tuning.tuner import Past


def start(
    *,
    project: Project,
    config: Config,
    search: Search,
    cohort: Cohort,
    reference: ReferenceStandard | None = None,
    name: str = "",
    by: User | None,
) -> SettingsSearch:
    """Check what can be checked without reading pixels, write the search down and queue its job.

    Raises `ConfigError` and `TrainingError`.
    """
    from inference.tuning.tasks import search_settings  # the task module imports this one

    config, reference = _checked(project, config, cohort, reference)
    search = space.check(config, search)
    with transaction.atomic():
        made = SettingsSearch.objects.create(
            project=project,
            name=(name or config["name"])[:120],
            config=config,
            search=search,
            reference=reference,
            cohort_digest=cohort.digest,
            created_by=by,
        )
        made.job = submit(
            search_settings,
            project=project,
            title=f"Search settings of {made.name} on {cohort.name}",
            parameters={"settings_search": made.pk},
            by=by,
        )
        made.save(update_fields=["job"])
    return made


def start_range_test(
    *,
    project: Project,
    config: Config,
    cohort: Cohort,
    reference: ReferenceStandard | None = None,
    by: User | None,
) -> Job:
    """Queue a search for the learning rate. Raises `ConfigError` and `TrainingError`."""
    from inference.tuning.tasks import find_learning_rate  # the task module imports this one

    config = check(config)
    if config["training"]["strategy"] == "frozen":
        raise TrainingError(
            "A last layer on frozen features has no learning rate.",
            "Search training.regularisation instead, or choose the strategy transfer.",
        )
    config, reference = _checked(project, config, cohort, reference, validation=False)
    return submit(
        find_learning_rate,
        project=project,
        title=f"Find the learning rate of {config['name']} on {cohort.name}",
        parameters={"config": config, "reference": reference.pk},
        by=by,
    )


def _checked(
    project: Project, config: Config, cohort: Cohort, reference: ReferenceStandard | None, *, validation: bool = True
) -> tuple[Config, ReferenceStandard]:
    config, reference = training.prepared(project, config, cohort, reference)
    if validation and not sets.entries(reference, config, Split.VALIDATION):
        raise TrainingError(
            f"The reference standard “{reference}” has nothing for a validation patient of “{cohort.name}”: settings "
            "are learned with training patients and compared on validation patients.",
            "Choose another reference standard, or freeze a cohort with a share for validation.",
        )
    return config, reference


def folder_of(search: SettingsSearch) -> Path:
    """Where the trial under way keeps its checkpoint."""
    return Path(settings.MEDIA_ROOT) / "training" / f"search-{search.pk}"


def note_environment(search: SettingsSearch) -> None:
    search.environment = training.environment()
    search.save(update_fields=["environment"])


def note_config(search: SettingsSearch, completed: Config) -> Config:
    """Write down what was learned from the training images before the first trial."""
    search.config = check(completed)
    search.save(update_fields=["config"])
    return search.config


def history(search: SettingsSearch) -> list[Past]:
    from inference.tuning.tuner import Past

    return [
        Past(
            trial.values,
            trial.value,
            trial.state == Trial.State.PRUNED,
            {int(step): figure for step, figure in trial.curve.items()},
        )
        for trial in search.trials.exclude(state=Trial.State.RUNNING)
    ]


def open_trial(search: SettingsSearch, number: int, values: dict[str, Any]) -> Trial:
    return search.trials.create(number=number, values=values)


def note_validation(trial: Trial, epoch: int, value: float) -> None:
    trial.curve = {**trial.curve, str(epoch): round(value, 6)}
    trial.epochs = epoch
    trial.save(update_fields=["curve", "epochs"])


def complete(trial: Trial, judged: Judged) -> None:
    _end(
        trial,
        Trial.State.COMPLETE,
        value=judged.value,
        figures=judged.figures,
        epochs=judged.epochs,
        seconds=round(judged.seconds, 1),
    )


def give_up(trial: Trial, seconds: float) -> None:
    """Of a trial that was given up the last validation counts."""
    value = trial.curve[max(trial.curve, key=int)] if trial.curve else None
    _end(trial, Trial.State.PRUNED, value=value, seconds=round(seconds, 1))


def fail(trial: Trial, error: InferenceError) -> None:
    _end(trial, Trial.State.FAILED, cause=error.cause, next_step=error.next_step)


def _end(trial: Trial, state: str, **fields: Any) -> None:
    trial.state = state
    for name, value in fields.items():
        setattr(trial, name, value)
    trial.save(update_fields=["state", *fields])


def finish(search: SettingsSearch) -> None:
    search.finished_at = timezone.now()
    search.save(update_fields=["finished_at"])


def best(search: SettingsSearch) -> Trial | None:
    return search.trials.filter(state=Trial.State.COMPLETE).order_by("-value", "number").first()


def settings_of(job: Job, number: int | None = None) -> tuple[Config, ReferenceStandard, str]:
    """What a job found: configuration, reference standard, and where it comes from in words.

    job: a search, or one for the learning rate. number: of a trial; the best one where left out.
    Raises `TrainingError`.
    """
    if job.kind == "find_learning_rate":
        rate = job.result.get("suggested")
        if rate is None:
            raise TrainingError("This job found no learning rate.", job.result.get("reason") or "Wait for its end.")
        config = job.result["config"]
        reference = ReferenceStandard.objects.get(pk=job.parameters["reference"])
        found = {**config, "training": {**config["training"], "learning_rate": rate}}
        return check(found), reference, f"learning rate of job {job.pk}"
    search = SettingsSearch.objects.select_related("reference__cohort").filter(job=job).first()
    if search is None:
        raise TrainingError("This job did not search for settings.", "Choose a search.")
    trial = best(search) if number is None else search.trials.filter(number=number).first()
    if trial is None or trial.state == Trial.State.RUNNING:
        raise TrainingError("No trial of this search has ended yet.", "Wait for the first one.")
    return space.changed(search.config, trial.values), search.reference, f"trial {trial.number} of job {job.pk}"


def train(job: Job, *, number: int | None = None, by: User | None) -> TrainingRun:
    """Start a training run with what the job found. Raises `ConfigError` and `TrainingError`."""
    config, reference, origin = settings_of(job, number)
    with transaction.atomic():
        run = training.start(
            project=job.project,
            config=config,
            cohort=reference.cohort,
            reference=reference,
            name=f"{config['name']}, {origin}",
            by=by,
        )
        trail.record("settings.use", run, user=by, job=job.pk)
    return run


def report(search: SettingsSearch) -> dict[str, Any]:
    """For a program to read; also the job's result."""
    chosen = best(search)
    return {
        "settings_search": search.pk,
        "cohort": search.reference.cohort.name,
        "reference": str(search.reference),
        "best": chosen.number if chosen else None,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "values": trial.values,
                "value": trial.value,
                "figures": trial.figures,
                "epochs": trial.epochs,
                "seconds": trial.seconds,
                "cause": trial.cause,
            }
            for trial in search.trials.all()
        ],
    }
