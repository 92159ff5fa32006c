"""Background work of campaigns."""

from __future__ import annotations

from typing import Any

from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from portal.annotation import consensus, overlaps
from portal.annotation.errors import AnnotationError
from portal.annotation.models import Campaign


def _report(run: Run):
    def report(fraction: float, text: str) -> None:
        run.check()
        run.progress(fraction, text)

    return report


@job_task(queue="io")
def measure_overlaps(run: Run) -> dict[str, Any]:
    """Dice between the readers of each case of a campaign."""
    campaign = Campaign.objects.get(pk=run.parameters["campaign"])
    try:
        return {"pairs": overlaps.measure(campaign, _report(run))}
    except AnnotationError as error:
        raise JobError(error.cause, error.next_step) from error


@job_task(queue="io", max_attempts=1)
def publish_consensus(run: Run) -> dict[str, Any]:
    """Agree on every case of a campaign and store the result as a reference standard."""
    campaign = Campaign.objects.get(pk=run.parameters["campaign"])
    try:
        published = consensus.publish(
            campaign,
            by=run.job.created_by,
            name=run.parameters["name"],
            method=run.parameters["method"],
            minimum_reads=run.parameters["minimum_reads"],
            report=_report(run),
        )
    except AnnotationError as error:
        raise JobError(error.cause, error.next_step) from error
    reference = published.reference
    run.log(f"{reference} holds {reference.case_labels.count()} cases")
    for left_out in reference.detail["left_out"]:
        run.log(f"{left_out['case']}: {left_out['reason']}", "warning")
    return {
        "reference": reference.pk,
        "name": reference.name,
        "version": reference.version,
        "cases": reference.case_labels.count(),
        "left_out": len(reference.detail["left_out"]),
    }
