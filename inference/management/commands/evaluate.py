"""`manage.py evaluate`: compare a model version with a reference standard."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.evaluation import services
from inference.management.following import JobCommand, figure
from inference.registry.services import find_version
from inference.training.services import find_cohort, find_reference

SHOWN = {
    "dice": "Dice",
    "sensitivity": "voxel sensitivity",
    "hd95_mm": "HD95 in mm",
    "case_sensitivity": "case sensitivity",
    "case_specificity": "case specificity",
    "auc": "AUC of the case score",
    "froc_score": "FROC score",
    "average_precision": "average precision",
    "lesion_sensitivity": "lesions found",
    "false_positives_per_image": "false positives per image",
    "afroc": "AFROC",
}
OF_OUTLINES = {"dice", "sensitivity", "hd95_mm"}  # a classifier draws none


class Command(JobCommand):
    help = "Evaluate a model version on a cohort. Cases without a prediction of this version are run first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version", help="id of a version, or model-name:number")
        parser.add_argument("--cohort", required=True, help="name or id of the cohort")
        parser.add_argument(
            "--reference", default="", help="name or id of the reference standard; the newest otherwise"
        )
        parser.add_argument(
            "--split",
            default=None,
            choices=["train", "validation", "test", "all"],
            help="which patients; test where the cohort is split, else all",
        )
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            project = self.find_project(options["project"]) if options["project"] else None
            version = find_version(options["version"], project=project)
            cohort = find_cohort(version.model.project, options["cohort"])
            reference = find_reference(cohort, options["reference"])
            split = options["split"] or ("test" if cohort.frozen else "all")
            evaluation = services.start(
                version,
                cohort,
                reference=reference,
                split="" if split == "all" else split,
                by=by,
                priority=self.priority_of(options),
            )
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        assert evaluation.job is not None

        def result(_: Any) -> dict[str, Any]:
            evaluation.refresh_from_db()
            return services.report(evaluation)

        found = self.end(evaluation.job, options, {"evaluation": evaluation.pk}, result)
        classifies = version.model.task == version.model.Task.CLASSIFICATION
        if found and not options["json"]:
            self.stdout.write(f"{found['model']}:{found['number']} on {found['cohort']} ({found['split']})")
            for name, figures in found["summary"].items():
                self.stdout.write(name)
                for key, title in SHOWN.items():
                    if key in figures and not (classifies and key in OF_OUTLINES):
                        self.stdout.write(f"  {title}: {figure(figures[key])}")
            shared = found["overlap"]
            if shared.get("patients"):
                self.stdout.write(
                    f"Careful: {shared['patients']} of {shared['of_patients']} patients were used in training."
                )
            self.stdout.write("Research use only; not a medical device.")
