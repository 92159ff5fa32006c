"""The job that explains a prediction."""

from __future__ import annotations

from typing import Any

from inference.explanation import services
from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.prediction.models import Prediction


@job_task(queue="infer", max_attempts=2)
def explain(run: Run) -> dict[str, Any]:
    """Maps of a prediction, stored as series of its study."""
    found = Prediction.objects.select_related("version__model__project", "image", "study").filter(
        pk=run.parameters["prediction"]
    )
    prediction = found.first()
    if prediction is None:
        raise JobError("The result that was to be explained is not there any more.", "Run the model again.")

    def tick(share: float) -> None:
        run.check()
        run.progress(share, "covering the image part by part" if run.parameters["method"] == "occlusion" else "")

    made = services.explain(prediction, run.parameters, by=run.job.created_by, tick=tick, transact=run.owned)
    run.log(f"{len(made)} map{'' if len(made) == 1 else 's'} stored")
    return {
        "prediction": prediction.pk,
        "maps": [
            {"id": one.pk, "kind": one.kind, "label": one.label, "series": one.series.series_instance_uid}
            for one in made
        ],
    }
