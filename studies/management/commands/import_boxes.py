"""`manage.py import_boxes`: a reference standard of boxes and points from a table, all or nothing."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from studies.cohorts import boxes, services
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, ReferenceStandard
from studies.management import tables


class Command(BaseCommand):
    help = (
        "Make a reference standard of boxes and points: CSV in UTF-8 with the columns case (its name in the cohort),"
        " label, x, y, z (middle, LPS mm), and of boxes size_x, size_y, size_z (mm). A row without a label says that"
        " the case has no lesion."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--cohort", required=True, metavar="NAME")
        parser.add_argument("--name", default="Boxes", help="of the reference standard; its next version is made")
        parser.add_argument(
            "--source", default="import", choices=ReferenceStandard.Source.values, help="where the truth comes from"
        )
        parser.add_argument("--user", help="name of the user in whose name this is done")

    def handle(self, *, file: Path, **options: Any) -> None:
        project, by = tables.project_of(options["project"]), tables.user_of(options["user"])
        cohort = project.cohorts.filter(name=options["cohort"]).first()
        if cohort is None:
            raise CommandError(f"The project {project.slug} has no cohort {options['cohort']!r}.")
        try:
            text = tables.bytes_of(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CommandError(f"{file.name} is not text in UTF-8.") from error
        try:
            found = boxes.read_table(text.splitlines())
            with transaction.atomic():
                reference = services.create_reference(
                    cohort,
                    name=options["name"],
                    source=options["source"],
                    labels=self._labels(found),
                    cases=self._truths(list(cohort.cases.all()), found),
                    by=by,
                    detail={"file": file.name},
                )
        except CohortError as error:
            raise CommandError(str(error)) from error
        count = sum(len(lesions) for lesions in found.values())
        self.stdout.write(f"{reference}: {count} lesions in {len(found)} cases")

    @staticmethod
    def _labels(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        names = sorted({box["label"] for lesions in found.values() for box in lesions})
        return [{"number": number, "name": name} for number, name in enumerate(names, start=1)]

    @staticmethod
    def _truths(cases: list[Case], found: dict[str, list[dict[str, Any]]]) -> list[services.CaseTruth]:
        by_name = {case.name: case for case in cases}
        unknown = [name for name in found if name not in by_name]
        if unknown:
            raise CohortError("boxes", f"The cohort has no case {unknown[0]!r}.", "Name cases as the cohort does.")
        return [services.CaseTruth(by_name[name], values={"boxes": lesions}) for name, lesions in found.items()]
