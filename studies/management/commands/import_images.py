"""`manage.py import_images`: JPEG and PNG pictures with a table of labels as DICOM, a cohort and its classes."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.accounts import services as accounts
from portal.accounts.models import Project, User
from studies.cohorts.errors import CohortError
from studies.cohorts.splits import SIDES
from studies.ingest.image_labels import HEADINGS, Plan
from studies.ingest.images import Summary, import_images
from studies.tabular.problems import TableError
from studies.tabular.reading import ENCODINGS


def _fractions(text: str) -> dict[str, float]:
    parts = text.split(",")
    try:
        return {side: float(part) for side, part in zip(SIDES, parts, strict=True)}
    except ValueError as error:
        raise ArgumentTypeError("give three fractions: training,validation,test, for example 0.7,0.1,0.2") from error


def _column(text: str) -> tuple[str, str]:
    name, _, heading = text.partition("=")
    if name not in HEADINGS or not heading:
        raise ArgumentTypeError(f"write FIELD=HEADING; fields are {', '.join(HEADINGS)}")
    return name, heading


class Command(BaseCommand):
    help = (
        "Import pictures that a CSV or XLSX names (columns file, label, patient, and where there are any: group of"
        " near-duplicates, source, view, sex, age, modality, body_part, synthetic). Each becomes a study; labels become"
        " a classification; other columns become variables. Radiographs become computed radiography, other pictures"
        " secondary capture. One bad row never stops the others. Running it again adds nothing twice."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("labels", type=Path, help="the table; files are named relative to its folder")
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--create-project", action="store_true", help="make the project where it does not exist")
        parser.add_argument("--cohort", required=True, help="name of the cohort, made where it does not exist")
        parser.add_argument("--images", type=Path, help="folder of the files, where it is not that of the table")
        parser.add_argument("--column", type=_column, action="append", default=[], metavar="FIELD=HEADING")
        parser.add_argument("--modality", default="", help="of all pictures: CR or DX for X-ray, XC, OP, …")
        parser.add_argument("--xray", action="store_true", help="radiographs; the same as --modality CR")
        parser.add_argument("--body-part", default="", help="BodyPartExamined, for example CHEST")
        parser.add_argument("--synthetic", action="store_true", help="the pictures were generated")
        parser.add_argument("--reference", default="Image labels", help="name of the reference standard")
        parser.add_argument("--encoding", default="", choices=["", *ENCODINGS], help="of the table; detected")
        parser.add_argument("--fractions", type=_fractions, help="freeze with these shares, for example 0.7,0.1,0.2")
        parser.add_argument("--folds", type=int, default=0, help="freeze in so many folds")
        parser.add_argument("--leave-source-out", action="store_true", help="freeze with a fold for each source")
        parser.add_argument("--seed", type=int, default=1, help="of the split")
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        by = self._user(options["user"])
        try:
            plan = Plan(
                project=self._project(options["project"], options["create_project"], by),
                labels=options["labels"],
                cohort=options["cohort"],
                folder=options["images"],
                modality=(options["modality"] or ("CR" if options["xray"] else "")).upper(),
                body_part=options["body_part"],
                synthetic=options["synthetic"],
                reference=options["reference"],
                columns=dict(options["column"]),
                encoding=options["encoding"],
                design=self._design(options),
                by=by,
            )
            quiet = options["json"] or not self.stderr.isatty()
            summary = import_images(plan, progress=(lambda done, total: None) if quiet else self._progress)
        except (TableError, CohortError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(summary.as_json(), ensure_ascii=False))
        else:
            self._print(summary)
        if summary.problem:
            raise CommandError(summary.problem)
        if not summary.stored and not summary.duplicate:
            raise CommandError("Nothing was imported: every row was refused, see the reasons above.")

    def _design(self, options: dict[str, Any]) -> dict[str, Any] | None:
        """How to freeze, stratified by class; None where nothing was asked for."""
        if options["leave_source_out"]:
            return {"leave_source_out": True, "seed": options["seed"]}
        if options["folds"]:
            return {"folds": options["folds"], "fractions": options["fractions"] or {}, "seed": options["seed"]}
        return {"fractions": options["fractions"], "seed": options["seed"]} if options["fractions"] else None

    def _project(self, slug: str, create: bool, by: User | None) -> Project:
        project = Project.objects.filter(slug=slug).first()
        if project is None and create:
            project = accounts.create_project(slug=slug, name=slug.replace("-", " ").capitalize(), by=by)
        if project is None:
            raise CommandError(f"There is no project “{slug}”. Make it in the portal, or add --create-project.")
        return project

    def _user(self, name: str | None) -> User | None:
        user = User.objects.filter(username=name).first() if name else None
        if name and user is None:
            raise CommandError(f"There is no user “{name}”.")
        return user

    def _progress(self, done: int, total: int) -> None:
        self.stderr.write(f"\r{done} of {total}", ending="\n" if done == total else "")

    def _print(self, summary: Summary) -> None:
        for refused in summary.refused:
            self.stdout.write(f"row {refused.row}  {refused.file}  [{refused.code}] {refused.reason}")
        classes = ", ".join(f"{n} {name}" for name, n in sorted(summary.classes.items()))
        self.stdout.write(
            f"{summary.stored} stored, {summary.duplicate} already there, {len(summary.refused)} refused"
            f" · cohort {summary.cohort}: {summary.cases} cases of {summary.patients} patients"
            + (f" · classes: {classes} (reference {summary.reference} v{summary.reference_version})" if classes else "")
            + (f" · split {summary.splits}" if summary.frozen else " · not frozen")
        )
