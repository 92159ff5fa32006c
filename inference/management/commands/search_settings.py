"""`manage.py search_settings`: try settings of a TOML file on the validation patients of a frozen cohort."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand, figure
from inference.training import services as training
from inference.tuning import services
from inference.tuning.space import load
from inference.tuning.tasks import words


class Command(JobCommand):
    help = (
        "Search settings as the table [search] of a TOML file says. Trials learn from the training patients of a "
        "frozen cohort and are compared on its validation patients. docs/training.md has the keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("config", type=Path, help="TOML file: a training configuration with a table [search]")
        parser.add_argument("--cohort", default="", help="name or id of the cohort; data.cohort of the file otherwise")
        parser.add_argument(
            "--reference", default="", help="name or id of the reference standard; the newest otherwise"
        )
        parser.add_argument("--name", default="", help="what it is called")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            config, search = load(options["config"])
            project = self.find_project(options["project"] or config["data"]["project"])
            cohort = training.find_cohort(project, options["cohort"] or config["data"]["cohort"])
            reference = training.find_reference(cohort, options["reference"] or config["data"]["reference"])
            made = services.start(
                project=project,
                config=config,
                search=search,
                cohort=cohort,
                reference=reference,
                name=options["name"],
                by=by,
            )
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        assert made.job is not None
        found = self.end(made.job, options, {"settings_search": made.pk}, lambda job: job.result)
        if found and not options["json"]:
            self._print(found)

    def _print(self, found: dict[str, Any]) -> None:
        ended = [trial for trial in found["trials"] if trial["value"] is not None]
        for trial in sorted(ended, key=lambda trial: -trial["value"]):
            star = "*" if trial["number"] == found["best"] else " "
            state = "" if trial["state"] == "complete" else f" ({trial['state']})"
            self.stdout.write(f"{star} trial {trial['number']}: {trial['value']:.4f}{state}: {words(trial['values'])}")
            for name, value in trial["figures"].items():
                self.stdout.write(f"      {name}: {figure(value)}")
        for trial in found["trials"]:
            if trial["cause"]:
                self.stdout.write(f"  trial {trial['number']} failed: {trial['cause']}")
        self.stdout.write(
            "The best of several trials on the same validation patients looks better than it is: train with it, then "
            "evaluate once on the test patients. Research use only; not a medical device."
        )
