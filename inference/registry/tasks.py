"""The job that imports a model."""

from __future__ import annotations

from typing import Any

from inference.errors import InferenceError
from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.registry import importing


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
