"""Telling an MLflow server about training runs; which runs it knows is asked there, not kept here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from django.conf import settings

from inference.errors import TrainingError
from inference.jobs.models import Job
from inference.jobs.run import Run
from inference.jobs.services import submit
from inference.training import artefacts
from inference.training.mlflow import NoStore, Server, flat, key_of, milliseconds
from inference.training.models import TrainingRun
from portal.accounts.models import User

TAG, DONE, FILES = "readroom.training_run", "readroom.exported", "readroom.artefacts"


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


def export(run: TrainingRun, job: Run) -> dict[str, Any]:
    """Write the run to the server, once: a second export finds the first, and adds its files where they are missing; an
    interrupted one is begun anew. Where the server takes no files everything else arrives, and the log says so.

    Raises `TrainingError`.
    """
    server = Server(settings.MLFLOW_TRACKING_URI, settings.MLFLOW_TRACKING_TOKEN)
    experiment = server.experiment(f"readroom-{run.project.slug}")
    found = server.find_run(experiment, TAG, _identity(run))
    tags = {tag["key"]: tag["value"] for tag in found["data"].get("tags", [])} if found else {}
    if found is not None and DONE not in tags:
        server.call("POST", "runs/delete", run_id=found["info"]["run_id"])
        found = None
    there = found is not None
    if found is None:
        found, tags = _written(server, experiment, run, job), {}
    number = found["info"]["run_id"]
    answer = {"experiment": experiment, "mlflow_run": number, "already_there": there}
    if FILES in tags:
        return {**answer, "artefacts": tags[FILES].split(), "without_artefacts": ""}
    names, reason = _upload(server, found["info"].get("artifact_uri", ""), run, job)
    if reason:
        missing = sorted(set(artefacts.NAMES) - set(names))
        job.log(f"Parameters, curves and figures are in MLflow, but not {', '.join(missing)}. {reason}", "warning")
    else:
        server.log(number, parameters={}, metrics=[], tags={FILES: " ".join(names)})
    return {**answer, "artefacts": names, "without_artefacts": reason}


def _written(server: Server, experiment: str, run: TrainingRun, job: Run) -> dict[str, Any]:
    """Parameters, curves, figures and tags; the run as the server made it."""
    trained = run.job
    assert trained is not None
    assert trained.started_at is not None
    assert trained.finished_at is not None
    made: dict[str, Any] = server.call(
        "POST",
        "runs/create",
        experiment_id=experiment,
        run_name=f"training run {run.pk}",
        start_time=milliseconds(trained.started_at.timestamp()),
        tags=[{"key": TAG, "value": _identity(run)}],
    )["run"]
    number = made["info"]["run_id"]
    job.check()
    server.log(number, parameters=flat(run.config), metrics=list(_metrics(run)), tags=_tags(run))
    job.check()
    server.call(
        "POST",
        "runs/update",
        run_id=number,
        status="FINISHED",
        end_time=milliseconds(trained.finished_at.timestamp()),
    )
    server.log(number, parameters={}, metrics=[], tags={DONE: "yes"})
    return made


def _upload(server: Server, folder: str, run: TrainingRun, job: Run) -> tuple[list[str], str]:
    """Names of the files that arrived, and why others did not."""
    by = job.job.created_by
    names: list[str] = []
    for name, content in artefacts.of(run, by=by).items():
        job.check()
        try:
            server.upload(folder, name, content)
        except NoStore as error:
            return names, str(error)
        names.append(name)
    if by is None:
        return names, "A model card is made for a user: export with --user."
    return names, ""


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
    for figure in ("validation_auc", "validation_froc"):
        for name, value in (run.job.result.get(figure) or {}).items():
            if isinstance(value, int | float):
                yield {"key": key_of(f"{figure}/{name}"), "step": 0, "value": value, "timestamp": now}


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
