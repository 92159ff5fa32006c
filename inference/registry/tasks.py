"""The jobs that import a model and that make an ensemble."""

from __future__ import annotations

from typing import Any

from inference.errors import InferenceError
from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.registry import ensembles, importing
from inference.registry.models import ModelVersion


@job_task(queue="infer", max_attempts=2)
def import_model(run: Run) -> dict[str, Any]:
    """Register what was uploaded. The file goes when it is registered or found to be no model."""
    file = importing.waiting(run.parameters["file"])
    if not file.is_file():
        raise JobError("The uploaded file is not there any more.", "Upload the model again.")
    try:
        run.progress(0, "reading the file and trying the network on an image of zeros")
        with importing.opened(file, name=run.parameters["name"], manifest=run.parameters["manifest"]) as candidate:
            run.log(f"The network answered with the shape {candidate.answer}")
            with run.owned():
                version = importing.register(candidate, project=run.job.project, by=run.job.created_by)
                result = {"version": version.pk, "model": version.model.name, "number": version.number}
                run.finish(result)
    except InferenceError as error:
        file.unlink(missing_ok=True)
        raise JobError(error.cause, error.next_step) from error
    file.unlink(missing_ok=True)
    return result


@job_task(queue="infer", max_attempts=3)
def make_ensemble(run: Run) -> dict[str, Any]:
    """Copy the weights of the chosen versions into one new version."""
    wanted = run.parameters["versions"]
    found = ModelVersion.objects.select_related("model__project").in_bulk(wanted)
    if len(found) < len(wanted):
        raise JobError("A version that was chosen is not there any more.", "Choose the versions again.")
    run.progress(0, f"reading {len(wanted)} versions")
    with run.owned():
        version = ensembles.make(
            [found[pk] for pk in wanted],
            name=run.parameters["name"],
            answers=ensembles.Answers(**run.parameters["answers"]),
            project=run.job.project,
            by=run.job.created_by,
        )
        result = {"version": version.pk, "model": version.model.name, "number": version.number}
        run.finish(result)
    return result
