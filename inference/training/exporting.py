"""Telling an MLflow server about training runs; which runs it knows is asked there, not kept here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings

from inference.errors import TrainingError
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.training.mlflow import Server, flat, key_of, milliseconds
from inference.training.models import TrainingRun
from portal.accounts.models import User

TAG, DONE = "readroom.training_run", "readroom.exported"


def configured() -> bool:
    return bool(settings.MLFLOW_TRACKING_URI)


def start(run: TrainingRun, *, by: User | None) -> Job:
    """Queue the export of a finished run. Raises `TrainingError`."""
    from inference.training.tasks import export_run  # the task module imports this one

    if not configured():
        raise TrainingError(
            "No MLflow server is set up.", "Ask the administrator to set MLFLOW_TRACKING_URI and start the portal anew."
        )
    if run.version_id is None:
        raise TrainingError("The run has no version yet.", "Wait until its training has ended.")
    return submit(
        export_run,
        project=run.project,
        title=f"Export training run {run.pk} to MLflow",
        parameters={"training_run": run.pk},
        by=by,
    )


def export(run: TrainingRun, tick: Callable[[], None]) -> dict[str, Any]:
    """Write the run to the server, once: a second export finds the first, an interrupted one is begun anew.

    tick: called between calls; it may raise to stop. Raises `TrainingError`.
    """
    server = Server(settings.MLFLOW_TRACKING_URI, settings.MLFLOW_TRACKING_TOKEN)
    experiment = server.experiment(f"readroom-{run.project.slug}")
    found = server.find_run(experiment, TAG, _identity(run))
    if found is not None:
        tags = {tag["key"]: tag["value"] for tag in found["data"].get("tags", [])}
        if tags.get(DONE):
            return {"experiment": experiment, "mlflow_run": found["info"]["run_id"], "already_there": True}
        server.call("POST", "runs/delete", run_id=found["info"]["run_id"])
    job = run.job
    assert job is not None
    assert job.started_at is not None
    assert job.finished_at is not None
    made = server.call(
        "POST",
        "runs/create",
        experiment_id=experiment,
        run_name=f"training run {run.pk}",
        start_time=milliseconds(job.started_at.timestamp()),
        tags=[{"key": TAG, "value": _identity(run)}],
    )
    number = made["run"]["info"]["run_id"]
    tick()
    server.log(number, parameters=flat(run.config), metrics=list(_metrics(run)), tags=_tags(run))
    tick()
    server.call(
        "POST",
        "runs/update",
        run_id=number,
        status="FINISHED",
        end_time=milliseconds(job.finished_at.timestamp()),
    )
    server.log(number, parameters={}, metrics=[], tags={DONE: "yes"})
    return {"experiment": experiment, "mlflow_run": number, "already_there": False}


def _identity(run: TrainingRun) -> str:
    """The run among those of every portal that writes to the same server."""
    return f"{run.cohort_digest[:12]}-{run.pk}"


def _metrics(run: TrainingRun) -> Iterator[dict[str, Any]]:
    """The curves, point by point, and the figures of the validation with the ends of their intervals."""
    assert run.job is not None
    now = milliseconds()
    for name, step, value in run.job.metrics.order_by("id").values_list("name", "step", "value").iterator():
        if math.isfinite(value):
            yield {"key": key_of(name), "step": step, "value": value, "timestamp": now}
    for name, figure in (run.job.result.get("validation_dice") or {}).items():
        for part in ("estimate", "lower", "upper", "n"):
            if figure.get(part) is not None:
                key = key_of(f"validation_dice/{name}/{part}")
                yield {"key": key, "step": 0, "value": figure[part], "timestamp": now}
    for name, value in (run.job.result.get("validation_auc") or {}).items():
        if isinstance(value, int | float):
            yield {"key": key_of(f"validation_auc/{name}"), "step": 0, "value": value, "timestamp": now}


def _tags(run: TrainingRun) -> dict[str, str]:
    version = run.version
    assert version is not None
    return {
        "readroom.version": f"{version.pk}",
        "readroom.version_number": f"{version.number}",
        "readroom.version_digest": version.digest,
        "readroom.version_page": f"/models/versions/{version.pk}/",
        "readroom.job": f"{run.job_id}",
        "readroom.cohort": f"{run.reference.cohort_id}",
        "readroom.cohort_digest": run.cohort_digest,
        "readroom.reference": f"{run.reference_id}",
        "readroom.use": "Research use only; not a medical device.",
        **{f"readroom.environment.{key}": str(value)[:500] for key, value in run.environment.items()},
    }
