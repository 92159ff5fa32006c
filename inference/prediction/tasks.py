"""The prediction job."""

from __future__ import annotations

from typing import Any

from inference.jobs.run import Run
from inference.jobs.task import job_task
from inference.prediction import services
from inference.registry.models import ModelVersion


@job_task(queue="infer", max_attempts=3)
def predict(run: Run) -> dict[str, Any]:
    """Run a version on every case; the result says for each case what became of it, and why."""
    version = ModelVersion.objects.select_related("model__project").get(pk=run.parameters["version"])
    cases = services.targets(version, run.parameters)

    def before(number: int, case: services.Target) -> None:
        run.check()
        run.progress(number / len(cases), f"case {number + 1} of {len(cases)}: {case.name}")

    def after(outcome: services.CaseOutcome) -> None:
        if outcome.state == services.FAILED:
            run.log(f"{outcome.name}: {outcome.cause} {outcome.next_step}".strip(), "warning")

    outcomes = services.predict_all(
        version,
        cases,
        job=run.job,
        by=run.job.created_by,
        tick=run.check,
        before=before,
        after=after,
        transact=run.owned,
    )
    totals = services.counts(outcomes)
    run.log(f"{totals['stored']} stored, {totals['already_there']} already there, {totals['failed']} failed")
    return {"version": version.pk, **totals, "cases": [outcome.as_dict() for outcome in outcomes]}
