"""How much memory a run will take, before any run: what a job found out about the network, for any patch and batch.

The network is looked at in a process of its own, which a job starts: torch would stay in a process that serves pages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

from inference.errors import InferenceError, TrainingError
from inference.jobs.models import Job
from inference.jobs.run import Run
from inference.jobs.services import submit
from inference.networks import table
from inference.networks.footprint import Footprint
from inference.training import cases, class_cases, detection_cases
from inference.training.config import Config, planned
from portal.accounts.models import Project, User
from portal.runtime import liveness
from studies.cohorts.models import ReferenceStandard, Split

TASK = "inference.training.tasks.measure_network"
SECONDS = 150  # the slowest network took 9 s on one busy core
PLANS = "The network plans itself from the training images; the run estimates it then, and refuses what does not fit."
FROZEN = "A frozen network looks at one image at a time and keeps nothing for a backward pass."


@dataclass(frozen=True)
class Room:
    """A train worker's memory, bytes: on its graphics card where it has one. free: None where it is not told."""

    place: str
    total: int
    free: int | None


@dataclass(frozen=True)
class Estimate:
    """needed: bytes, None where they are not known: because a job still looks (`pending`), or for `reason`. batch: as
    there are cases for it. job: the one that looks or looked. room: of the smallest train worker, None without one;
    workers: how many there are."""

    needed: int | None = None
    batch: int = 0
    pending: bool = False
    reason: str = ""
    job: Job | None = None
    room: Room | None = None
    workers: int = 0

    @property
    def too_large(self) -> bool:
        """For the machine, whatever else runs there."""
        return self.needed is not None and self.room is not None and self.needed > self.room.total

    @property
    def crowded(self) -> bool:
        """It fits, but not beside what runs there at present."""
        free = self.room.free if self.room else None
        return self.needed is not None and free is not None and not self.too_large and self.needed > free


def of(project: Project, config: Config, reference: ReferenceStandard, *, by: User | None) -> Estimate:
    """For a checked configuration. Where nobody looked at this network yet, `by` starts the job that does; without
    `by` nothing is started."""
    if config["training"]["strategy"] == "frozen":
        return Estimate(reason=FROZEN)
    if planned(config):
        return Estimate(reason=PLANS)
    try:
        outputs, count = _outputs(reference, config), _cases(reference, config)
    except InferenceError as error:
        return Estimate(reason=f"{error.cause} {error.next_step}".strip())
    network, patch = config["network"], config["training"]["patch"]
    batch = max(1, min(config["training"]["batch_size"], count))
    asked = Job.objects.filter(
        project=project, task=TASK, parameters__network=network, parameters__outputs=outputs
    ).order_by("-pk")
    for job in asked.filter(state=Job.State.SUCCEEDED):
        if "problem" not in job.result and (found := Footprint.of_dict(job.result)).covers(patch):
            rooms = train_rooms()
            needed = found.training_bytes(batch=batch, patch=patch)
            smallest = min(rooms, key=lambda room: room.total, default=None)
            return Estimate(needed, batch, job=job, room=smallest, workers=len(rooms))
    if waiting := asked.exclude(state__in=_ENDED).first():
        return Estimate(batch=batch, pending=True, job=waiting)
    if ended := asked.filter(parameters__patch=patch).first():
        return Estimate(batch=batch, reason=_why(ended), job=ended)
    return Estimate(batch=batch, pending=True, job=_start(project, network, outputs, patch, by) if by else None)


_ENDED = (Job.State.SUCCEEDED, Job.State.FAILED, Job.State.CANCELLED)


def _why(job: Job) -> str:
    """What an ended job that found nothing says for this patch."""
    if job.state == Job.State.SUCCEEDED:
        return f"The network does not take this patch. Torch says: {job.result['problem']}"
    return job.cause or "The estimate was cancelled; retry its job."


def _start(project: Project, network: dict[str, Any], outputs: int, patch: list[int], by: User) -> Job:
    from inference.training.tasks import measure_network  # the task module imports this one

    known = table.NETWORKS.get(network["name"])
    return submit(
        measure_network,
        project=project,
        title=f"Estimate the memory of {known.title if known else network['name']}",
        parameters={"network": network, "outputs": outputs, "patch": patch},
        by=by,
    )


def _outputs(reference: ReferenceStandard, config: Config) -> int:
    """How many channels or values the network answers with. Raises `TrainingError`."""
    wanted = config["data"]["structures"]
    if config["task"] == "classification":
        return len(class_cases.choose_classes(reference, wanted))
    return len(cases.choose_labels(reference, wanted)) + (config["task"] == "segmentation")


def _cases(reference: ReferenceStandard, config: Config) -> int:
    """How many patches or images an epoch has."""
    if config["task"] == "classification":
        classes = class_cases.choose_classes(reference, config["data"]["structures"])
        entries = reference.case_labels.filter(values__class__in=classes, case__cohort_patient__split=Split.TRAIN)
        return entries.count()
    look = detection_cases.located if config["task"] == "detection" else cases.labelled_cases
    return len(look(reference, Split.TRAIN)) * int(config["training"]["samples_per_case"])


def train_rooms() -> list[Room]:
    """What the living train workers have; none where the broker is away."""
    try:
        found = liveness.workers()
    except redis.RedisError:
        return []
    return list(_rooms(worker for worker in found if Job.Queue.TRAIN in worker["queues"]))


def _rooms(workers: Iterable[dict[str, Any]]) -> Iterable[Room]:
    for worker in workers:
        cards = [card for card in worker["devices"] if card["memory_total"]]
        if cards:
            total, used = cards[0]["memory_total"], cards[0]["memory_used"]
            yield Room(cards[0]["name"], total, None if used is None else total - used)
        else:
            yield Room(worker["machine"], worker["memory_total"], worker["memory_free"])


def measure(run: Run) -> dict[str, Any]:
    """The body of the job: the footprint, or `{"problem": …}` where the network does not take the patch."""
    asked = {key: run.parameters[key] for key in ("network", "outputs", "patch")}
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "inference.networks.footprint"],
            input=json.dumps(asked),
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingError(
            f"The network was not looked at within {SECONDS} seconds.", "Retry when the machine is less busy."
        ) from error
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [f"code {answer.returncode}"])[-1]
        raise TrainingError(f"The network could not be looked at: {last[:200]}", "Start the training: it checks again.")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
