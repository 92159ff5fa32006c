"""What earlier runs with the same network, patch and batch took: the honest way to say what the next one will take."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Max

from inference.jobs.models import Job
from inference.training.config import Config
from inference.training.models import TrainingRun
from portal.accounts.models import Project

MEMORY = "memory_gb"  # the metric of `fit`, which loads torch


@dataclass(frozen=True)
class Earlier:
    """seconds: of the whole run; memory_gb: at its peak, None where it was not measured."""

    run: TrainingRun
    seconds: float
    epochs: int
    cases: int
    memory_gb: float | None

    def seconds_for(self, epochs: int, cases: int) -> float | None:
        """The time of so many epochs over so many training cases, in proportion."""
        if not self.epochs or not self.cases:
            return None
        return self.seconds * epochs * cases / (self.epochs * self.cases)


def like(project: Project, config: Config) -> Earlier | None:
    """The newest finished run of the project with these settings; None where there is none."""
    training = config["training"]
    run = (
        TrainingRun.objects.filter(
            project=project,
            job__state=Job.State.SUCCEEDED,
            version__isnull=False,
            config__network=config["network"],
            config__training__patch=training["patch"],
            config__training__batch_size=training["batch_size"],
            config__training__strategy=training["strategy"],
        )
        .select_related("job", "version")
        .order_by("-pk")
        .first()
    )
    if run is None or run.version is None or run.job is None:
        return None
    facts = run.version.manifest.get("training", {})
    return Earlier(
        run,
        float(facts.get("seconds", 0)),
        int(facts.get("epochs", 0)),
        int(facts.get("training_cases", 0)),
        peak_memory(run.job),
    )


def peak_memory(job: Job) -> float | None:
    """GB, as the job measured it after every epoch."""
    found = job.metrics.filter(name=MEMORY).aggregate(most=Max("value"))["most"]
    return None if found is None else float(found)
