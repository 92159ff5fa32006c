"""`manage.py find_learning_rate`: the range test for the configuration of a TOML file."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand
from inference.training import services as training
from inference.tuning import services
from inference.tuning.space import base, read


class Command(JobCommand):
    help = "Find the learning rate at which the loss falls fastest, on the training patients of a frozen cohort."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("config", type=Path, help="TOML file: a training configuration")
        parser.add_argument("--cohort", default="", help="name or id of the cohort; data.cohort of the file otherwise")
        parser.add_argument(
            "--reference", default="", help="name or id of the reference standard; the newest otherwise"
        )
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            config = base(read(options["config"]))
            project = self.find_project(options["project"] or config["data"]["project"])
            cohort = training.find_cohort(project, options["cohort"] or config["data"]["cohort"])
            reference = training.find_reference(cohort, options["reference"] or config["data"]["reference"])
            job = services.start_range_test(project=project, config=config, cohort=cohort, reference=reference, by=by)
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = self.end(job, options, {}, lambda job: job.result)
        if found and not options["json"]:
            rate = found["suggested"]
            self.stdout.write(
                f"learning_rate = {rate:g}" if rate is not None else f"No rate is suggested. {found['reason']}"
            )
