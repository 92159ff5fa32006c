"""The jobs that talk to other imaging systems."""

from __future__ import annotations

from typing import Any

from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from portal.pacs import transfers
from portal.pacs.transfers import Moved
from studies.dimse.models import RemoteNode
from studies.models import Study


@job_task(queue="io", max_attempts=3)
def retrieve(run: Run) -> dict[str, Any]:
    """Studies of a node into its project."""
    node = _node(run)
    moved = transfers.retrieve_all(node, run.parameters["studies"], by=run.job.created_by, tick=_tick(run))
    return _result(run, node, moved)


@job_task(queue="io", max_attempts=3)
def send(run: Run) -> dict[str, Any]:
    """Studies of a project to a node of it."""
    node = _node(run)
    studies = list(Study.objects.filter(pk__in=run.parameters["studies"], project=node.project).order_by("pk"))
    moved = transfers.send_all(
        node,
        studies,
        run.parameters["what"],
        by=run.job.created_by,
        tick=_tick(run),
        series=run.parameters.get("series"),
    )
    return _result(run, node, moved)


def _node(run: Run) -> RemoteNode:
    node = RemoteNode.objects.select_related("project").filter(pk=run.parameters["node"], active=True).first()
    if node is None:
        raise JobError("The node was removed or switched off.", "Choose another one.")
    return node


def _tick(run: Run):
    def tick(fraction: float, text: str) -> None:
        run.check()
        run.progress(fraction, text)

    return tick


def _result(run: Run, node: RemoteNode, moved: list[Moved]) -> dict[str, Any]:
    """What is told of a job; it failed where nothing came through."""
    failed = [one for one in moved if one.cause]
    for one in failed:
        run.log(f"{one.name}: {one.cause} {one.next_step}".strip(), "warning")
    run.log(f"{sum(one.objects for one in moved)} objects; {len(moved) - len(failed)} of {len(moved)} studies whole")
    if moved and all(one.cause and not one.objects for one in moved):
        raise JobError(moved[0].cause, moved[0].next_step or "Run the job again later.")
    return {
        "node": str(node),
        "objects": sum(one.objects for one in moved),
        "studies": len(moved),
        "whole": len(moved) - len(failed),
        "cases": [one.as_dict() for one in moved],
    }
