"""`manage.py run_model`: run a model version on a cohort or on studies."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from inference.errors import InferenceError
from inference.management.following import JobCommand
from inference.prediction import services
from inference.registry.services import find_version
from inference.training.services import find_cohort
from studies.models import Study


class Command(JobCommand):
    help = "Run a model version on a cohort or on studies; the results are stored as DICOM SEG in the archive."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version", help="id of a version, or model-name:number")
        parser.add_argument("--cohort", default="", help="name or id of the cohort")
        parser.add_argument("--split", default="", choices=["", "train", "validation", "test"], help="one side only")
        parser.add_argument(
            "--study", action="append", default=[], help="StudyInstanceUID, instead of a cohort; repeat"
        )
        parser.add_argument(
            "--series",
            action="append",
            default=[],
            metavar="INPUT=UID",
            help="SeriesInstanceUID for an input of the model, chosen by hand for the one --study; repeat",
        )
        self.add_job_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.find_user(options["user"])
        try:
            project = self.find_project(options["project"]) if options["project"] else None
            version = find_version(options["version"], project=project)
            cohort = find_cohort(version.model.project, options["cohort"]) if options["cohort"] else None
            studies = self._studies(version.model.project_id, options["study"]) if options["study"] else None
            job = services.start(
                version,
                cohort=cohort,
                split=options["split"],
                studies=studies,
                by_hand=self._by_hand(studies, options["series"]),
                by=by,
                priority=self.priority_of(options),
            )
        except InferenceError as error:
            raise CommandError(f"{error.cause}\n{error.next_step}".strip()) from error
        found = self.end(job, options, {"version": version.pk}, lambda ended: ended.result)
        if found is None:
            return
        if not options["json"]:
            self.stdout.write(
                f"{found['stored']} stored, {found['already_there']} already there, {found['failed']} failed"
            )
            for case in found["cases"]:
                if case["state"] == services.FAILED:
                    self.stdout.write(f"  {case['name']}: {case['cause']} {case['next_step']}")
        if found["failed"] and found["failed"] == len(found["cases"]):
            raise CommandError("The model could not be run on any case; see the causes.")

    def _by_hand(self, studies: list[Study] | None, chosen: list[str]) -> dict[int, dict[str, int]] | None:
        if not chosen:
            return None
        if studies is None or len(studies) != 1:
            raise CommandError("--series chooses the series of one study: give one --study.")
        series = dict(studies[0].series.values_list("series_instance_uid", "pk"))
        found = {}
        for text in chosen:
            name, _, uid = text.rpartition("=")
            if not name or uid not in series:
                raise CommandError(f"{text!r} is not INPUT=SeriesInstanceUID with a series of the study.")
            found[name] = series[uid]
        return {studies[0].pk: found}

    def _studies(self, project_id: int, uids: list[str]) -> list[Study]:
        studies = list(Study.objects.filter(project_id=project_id, study_instance_uid__in=uids))
        if len(studies) < len(set(uids)):
            raise CommandError(f"{len(set(uids)) - len(studies)} of the studies are not in the model's project.")
        return studies
