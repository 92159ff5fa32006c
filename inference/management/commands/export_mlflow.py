"""`manage.py export_mlflow`: write a finished training run to the MLflow server of MLFLOW_TRACKING_URI."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand
from inference.training import exporting
from inference.training.models import TrainingRun


class Command(JobCommand):
    help = "Write a finished training run to the MLflow server of MLFLOW_TRACKING_URI, without anybody's identity."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", type=int, help="id of the training run")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        run = TrainingRun.objects.select_related("project").filter(pk=options["run"]).first()
        if run is None:
            raise CommandError(f"There is no training run {options['run']}.")
        try:
            job = exporting.start(run, by=self.find_user(options["user"]))
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = self.end(job, options, {"training_run": run.pk}, lambda job: job.result)
        if found and not options["json"]:
            there = " (it was there already)" if found["already_there"] else ""
            self.stdout.write(f"MLflow run {found['mlflow_run']} of experiment {found['experiment']}{there}")
