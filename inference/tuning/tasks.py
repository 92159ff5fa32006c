"""The jobs that look for settings."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any

from inference.errors import InferenceError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.training import cases, sets
from inference.training import services as training
from inference.tuning import services, space
from inference.tuning.models import SettingsSearch, Trial
from studies.cohorts.models import ReferenceStandard


@job_task(queue="train", max_attempts=3)
def search_settings(run: Run) -> dict[str, Any]:
    """Trial after trial on the same cases. A second attempt goes on with the trial that was interrupted."""
    search = SettingsSearch.objects.select_related("reference__cohort").get(pk=run.parameters["settings_search"])
    if search.finished_at:
        return services.report(search)
    cases.find_cohort(search.reference.cohort)
    services.note_environment(search)
    loaded = sets.load(run, search.reference, search.config, note=partial(services.note_config, search))
    wanted, limit = search.search["trials"], search.search["max_minutes"] * 60
    for number in range(1, wanted + 1):
        trial = search.trials.filter(number=number).first()
        if trial is not None and trial.state != Trial.State.RUNNING:
            continue
        spent = sum(search.trials.values_list("seconds", flat=True))
        if limit and spent >= limit:
            run.log(f"The search ends after {number - 1} trials: its {limit / 60:g} minutes are over")
            break
        _try(run, search, loaded, number, trial)
    shutil.rmtree(services.folder_of(search), ignore_errors=True)
    with run.owned():
        services.finish(search)
        result = services.report(search)
        run.finish(result)
    return result


def _try(run: Run, search: SettingsSearch, loaded: sets.Sets, number: int, trial: Trial | None) -> None:
    """One trial; trial: the interrupted one."""
    from inference.tuning.fitting import GivenUp, TrialWatcher, judge  # with torch and Optuna
    from inference.tuning.tuner import Proposal

    proposal = Proposal(
        search.search,
        services.history(search),
        seed=search.config["training"]["seed"],
        number=number,
        values=trial.values if trial else None,
    )
    with run.owned():  # here and below: an attempt that lost its job must not write into another one's trials
        opened = trial or services.open_trial(search, number, proposal.values)
    for epoch in sorted(map(int, opened.curve)):
        proposal.report(epoch, opened.curve[str(epoch)])
    run.log(f"Trial {number} of {search.search['trials']}: " + words(opened.values))

    def judged(epoch: int, value: float) -> bool:
        if str(epoch) not in opened.curve:
            with run.owned():
                services.note_validation(opened, epoch, value)
        return proposal.report(epoch, value)

    started = time.monotonic()
    watcher = TrialWatcher(run, number, search.search["trials"], judged)
    folder = services.folder_of(search) / str(number)
    try:
        config = space.changed(loaded.config, opened.values)
        found = judge(loaded, config, folder, training.features_folder(), watcher)
    except GivenUp:
        with run.owned():
            services.give_up(opened, time.monotonic() - started)
        run.log(f"Trial {number} is given up after epoch {opened.epochs}: below the median of the others")
    except InferenceError as error:  # one setting that cannot be trained does not end the search
        with run.owned():
            services.fail(opened, error)
        run.log(f"Trial {number} failed: {error.cause} {error.next_step}", "warning")
    else:
        with run.owned():
            services.complete(opened, found)
        run.log(f"Trial {number}: mean validation figure {found.value:.4f}")
    shutil.rmtree(folder, ignore_errors=True)


@job_task(queue="train", max_attempts=3)
def find_learning_rate(run: Run) -> dict[str, Any]:
    """The range test; cheap enough to start over after an interruption."""
    from inference.tuning.lr_finder import range_test  # with torch

    reference = ReferenceStandard.objects.select_related("cohort").get(pk=run.parameters["reference"])
    cases.find_cohort(reference.cohort)
    loaded = sets.load(run, reference, run.parameters["config"], note=lambda completed: completed)
    found = range_test(loaded, loaded.config, run)
    if found.suggested is None:
        run.log(f"No learning rate is suggested. {found.reason}", "warning")
    else:
        run.log(f"The loss falls fastest at a learning rate of {found.suggested:g}")
    return {**found.as_dict(), "config": loaded.config}


def words(values: dict[str, Any]) -> str:
    """`training.learning_rate 0.0032, training.loss dice`."""
    return ", ".join(f"{key} {v:.3g}" if isinstance(v, float) else f"{key} {v}" for key, v in values.items())
