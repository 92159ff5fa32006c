"""`manage.py make_ensemble`: several versions as one, whose probabilities are averaged, or whose boxes are fused."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand
from inference.registry import ensembles
from inference.registry.manifest import MEASURES
from inference.registry.services import find_version


class Command(JobCommand):
    help = (
        "Make one version of several of the same task, labels and preprocessing, such as the folds of a training, or "
        "of one that is asked about mirror images or with dropout left on."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="of the model that the ensemble becomes a version of")
        parser.add_argument("versions", nargs="+", help="ids, or model-name:number")
        parser.add_argument("--mirror", nargs="*", default=[], choices=["x", "y", "z"], help="average mirror images")
        parser.add_argument("--shifts", type=int, default=0, help="average one-voxel shifts, 0 to 4")
        parser.add_argument("--dropout", type=int, default=0, help="passes with dropout left on, 0 to 100")
        parser.add_argument("--uncertainty", default="", choices=["", *MEASURES], help="how disagreement is measured")
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        project = self.find_project(options["project"]) if options["project"] else None
        try:
            versions = [find_version(text, project=project) for text in options["versions"]]
            answers = ensembles.Answers(
                tuple(options["mirror"]), options["shifts"], options["dropout"], options["uncertainty"]
            )
            job = ensembles.start(versions, name=options["name"], answers=answers, by=by)
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = self.end(job, options, {}, lambda ended: ended.result)
        if found is not None and not options["json"]:
            self.stdout.write(f"Version {found['version']}, {found['model']}:{found['number']}")
