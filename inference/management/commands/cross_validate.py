"""`manage.py cross_validate`: a network, of a classifier with classical baselines, in rounds over a frozen cohort."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand, figure
from inference.training import crossvalidation, outlines, services
from inference.training.config import TITLES, load


class Command(JobCommand):
    help = (
        "Cross-validate a network as a TOML file says: by the folds of a frozen cohort, and leaving one source out. "
        "docs/training.md has the keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        self.add_config_arguments(parser, "chest-xray.toml")
        parser.add_argument("--name", default="", help="what it is called")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            config = load(options["config"], options["set"])
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
        if "structures" in found:
            self._print_structures(found)
        else:
            self._print_classes(found)
        self.stdout.write(f"{found['seconds']} s. Research use only; not a medical device.")

    def _print_rounds(self, found: dict[str, Any], table: dict[str, Any]) -> None:
        self.stdout.write(f"\n{found['cohort']}, {table['title']}")
        for part in table["rounds"]:
            unseen = f"; never seen in training: {', '.join(part['unseen'])}" if part["unseen"] else ""
            problem = f"; not judged: {part['problem']}" if part["problem"] else ""
            self.stdout.write(
                f"  {part['name']}: {part['training']} training, {part['test']} test cases{unseen}{problem}"
            )
            for case in part.get("failed", []):
                self.stdout.write(f"    {case['case']} could not be judged: {case['cause']}")

    def _print_structures(self, found: dict[str, Any]) -> None:
        for table in outlines.tables(found):
            self._print_rounds(found, table)
            for name, figures in table["structures"]:
                self.stdout.write(f"  {name}: Dice {figure(figures['dice'])}")
                self.stdout.write(f"    HD95 {figure(figures['hd95_mm'])}, mm")

    def _print_classes(self, found: dict[str, Any]) -> None:
        for scheme in crossvalidation.tables(found):
            self._print_rounds(found, scheme)
            for method, figures in scheme["methods"]:
                self.stdout.write(f"  {TITLES[method]}: accuracy {figure(figures['accuracy'])}")
                for pair in figures["pairs"]:
                    self.stdout.write(
                        f"    AUC {pair['classes'][0]} against {pair['classes'][1]}: {figure(pair['auc'])}"
                    )
        if warning := found["confounding"].get("warning"):
            self.stdout.write(f"\nWarning: {warning}")
