"""`manage.py cross_validate`: a classifier and classical baselines in rounds over a frozen cohort."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand, figure
from inference.training import crossvalidation, services
from inference.training.config import TITLES, load


class Command(JobCommand):
    help = (
        "Cross-validate a classifier as a TOML file says: by the folds of a frozen cohort, and leaving one source out. "
        "docs/training.md has the keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "config", type=Path, help="TOML file, for example inference/training/presets/chest-xray.toml"
        )
        parser.add_argument("--cohort", default="", help="name or id of the cohort; data.cohort of the file otherwise")
        parser.add_argument("--reference", default="", help="name or id of the classification; the newest otherwise")
        parser.add_argument("--name", default="", help="what it is called")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            config = load(options["config"])
            project = self.find_project(options["project"] or config["data"]["project"])
            cohort = services.find_cohort(project, options["cohort"] or config["data"]["cohort"])
            reference = services.find_reference(cohort, options["reference"] or config["data"]["reference"])
            made = crossvalidation.start(
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
        assert made.job is not None
        found = self.end(made.job, options, {"cross_validation": made.pk}, lambda job: job.result)
        if found and not options["json"]:
            self._print(found)

    def _print(self, found: dict[str, Any]) -> None:
        for scheme in crossvalidation.tables(found):
            self.stdout.write(f"\n{found['cohort']}, {scheme['title']}")
            for part in scheme["rounds"]:
                unseen = f"; never seen in training: {', '.join(part['unseen'])}" if part["unseen"] else ""
                problem = f"; not judged: {part['problem']}" if part["problem"] else ""
                self.stdout.write(
                    f"  {part['name']}: {part['training']} training, {part['test']} test cases{unseen}{problem}"
                )
            for method, figures in scheme["methods"]:
                self.stdout.write(f"  {TITLES[method]}: accuracy {figure(figures['accuracy'])}")
                for pair in figures["pairs"]:
                    self.stdout.write(
                        f"    AUC {pair['classes'][0]} against {pair['classes'][1]}: {figure(pair['auc'])}"
                    )
        if warning := found["confounding"].get("warning"):
            self.stdout.write(f"\nWarning: {warning}")
        self.stdout.write(f"{found['seconds']} s. Research use only; not a medical device.")
