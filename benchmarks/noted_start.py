"""The job of `benchmarks.inference_overhead` that says when its body started."""

import time
from typing import Any

from inference.jobs.run import Run
from inference.jobs.task import job_task


@job_task(queue="infer", max_attempts=1)
def note(run: Run) -> dict[str, Any]:
    return {"started": time.time()}
