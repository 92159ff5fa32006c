"""`manage.py train`: train a model from a TOML file on a frozen cohort."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand, figure
from inference.training import services
from inference.training.config import load


class Command(JobCommand):
    help = (
        "Train a model as a TOML file says, on the training patients of a frozen cohort. docs/training.md has the keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        self.add_config_arguments(parser, "hippocampus.toml")
        parser.add_argument("--name", default="", help="name of the run")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            config = load(options["config"], options["set"])
            project = self.find_project(options["project"] or config["data"]["project"])
            cohort_name = options["cohort"] or config["data"]["cohort"]
            if not cohort_name:
                raise CommandError("Say which cohort with --cohort, or with data.cohort in the file.")
            cohort = services.find_cohort(project, cohort_name)
            reference = services.find_reference(cohort, options["reference"] or config["data"]["reference"])
            run = services.start(
                project=project,
                config=config,
                cohort=cohort,
                reference=reference,
                name=options["name"],
                by=by,
                priority=self.priority_of(options),
            )
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        assert run.job is not None
        found = self.end(run.job, options, {"training_run": run.pk}, lambda job: job.result)
        if found and not options["json"]:
            self.stdout.write(
                f"Version {found['version']}, {found['model']}:{found['number']}: {found.get('epochs')} epochs in "
                f"{found.get('seconds')} s"
            )
            for name, value in found.get("validation_dice", {}).items():
                self.stdout.write(f"  {name}: validation Dice {figure(value)}")
            self.stdout.write(f"Next: manage.py evaluate {found['model']}:{found['number']} --cohort … --wait")
