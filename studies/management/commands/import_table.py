"""`manage.py import_table`: the cases of a cohort, or classes of its cases, from CSV or XLSX, all or nothing."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from portal.accounts.models import Project, User
from studies.cohorts import services as cohorts
from studies.cohorts import table_imports
from studies.cohorts.clinical import TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.models import ReferenceStandard
from studies.cohorts.table_imports import Preview
from studies.cohorts.tables import Choices
from studies.management import tables
from studies.tabular import reading
from studies.tabular.problems import TableError

PURPOSES = {"cases": TableImport.Purpose.COHORT, "classes": TableImport.Purpose.REFERENCE}
SOURCES = [
    str(source)
    for source in (
        ReferenceStandard.Source.IMPORT,
        ReferenceStandard.Source.PATHOLOGY,
        ReferenceStandard.Source.FOLLOW_UP,
    )
]


class Command(BaseCommand):
    help = (
        "Make the studies that a CSV or XLSX file names cases of a cohort (--as cases), or give its cases their classes"
        " as the next version of a reference standard (--as classes). What each column is, is suggested from heading"
        " and content; --column changes it. Every problem is named with row and column; nothing is imported while"
        " there is one. Clinical variables come in with import_variables."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--cohort", required=True, metavar="NAME")
        parser.add_argument("--create-cohort", action="store_true", help="make the cohort where it does not exist")
        parser.add_argument("--as", required=True, choices=list(PURPOSES), dest="purpose")
        parser.add_argument("--reference", default="", metavar="NAME", help="of the reference standard, for classes")
        parser.add_argument("--source", default=SOURCES[0], choices=SOURCES, help="where the classes come from")
        parser.add_argument("--dry-run", action="store_true", help="say what would be imported, and import nothing")
        parser.add_argument(
            "--column", action="append", default=[], metavar="HEADING=KIND",
            help="patient_id, study_instance_uid, accession_number, case, label, birth_date, sex, person or ignore;"
            " may be given again",
        )  # fmt: skip
        parser.add_argument("--all-studies", action="store_true", help="a patient stands for all of his studies")
        parser.add_argument("--unknown", default="refuse", choices=["refuse", "skip"], help="unknown patients")
        parser.add_argument("--fill-down", action="store_true", help="an empty identifier means the one above")
        parser.add_argument("--accept", action="append", default=[], choices=["same_person", "two_persons"])
        parser.add_argument("--encoding", default="", choices=["", *reading.ENCODINGS], help="detected where not given")
        parser.add_argument("--delimiter", default="", help="detected where not given")
        parser.add_argument("--sheet", default="", help="of a workbook; the first that is not empty")
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, *, file: Path, **options: Any) -> None:
        project, by = tables.project_of(options["project"]), tables.user_of(options["user"])
        data = tables.bytes_of(file)
        try:
            with transaction.atomic():
                preview = self._run(self._kept(project, file, data, options, by), options, by)
                if not preview.done:  # nothing stays of what was only looked at
                    transaction.set_rollback(True)
        except TableError as error:
            preview = Preview([error.problem])
        except CohortError as error:
            raise CommandError(str(error)) from error
        self._end(preview, file, options)

    def _kept(self, project: Project, file: Path, data: bytes, options: dict[str, Any], by: User | None) -> TableImport:
        cohort = project.cohorts.filter(name=options["cohort"]).first()
        if cohort is None:
            if not options["create_cohort"] or options["purpose"] != "cases":
                raise CommandError(
                    f"The project has no cohort “{options['cohort']}”. With --create-cohort it is made, for cases."
                )
            cohort = cohorts.create(project=project, name=options["cohort"], by=by)
        return table_imports.keep(
            data, project=project, purpose=PURPOSES[options["purpose"]], name=file.name, by=by, cohort=cohort,
            reading_as={key: options[key] for key in ("encoding", "delimiter", "sheet")},
        )  # fmt: skip

    def _run(self, record: TableImport, options: dict[str, Any], by: User | None) -> Preview:
        """What was imported, or would be; the file that was kept goes in any case."""
        suggested = Choices.of(record.choices)
        try:
            choices = replace(
                suggested,
                columns=tables.columns_of(suggested, options["column"]),
                fill_down=suggested.fill_down or options["fill_down"],
                unknown=options["unknown"],
                all_studies=options["all_studies"],
                accept=tuple(options["accept"]),
            )
            extra = {"reference": options["reference"].strip()[:80], "source": options["source"]}
            record = table_imports.choose(record, choices, record.choices["reading"], extra)
            preview = table_imports.preview(record)
            if not preview.problems and not options["dry_run"]:
                preview = table_imports.finish(record, by=by)
            return preview
        finally:
            table_imports.discard(record)

    def _end(self, preview: Preview, file: Path, options: dict[str, Any]) -> None:
        told = {"dry_run": options["dry_run"], **preview.as_json()}
        if options["json"]:
            self.stdout.write(json.dumps(told, ensure_ascii=False))
        else:
            tables.tell_problems(self.stdout, file, told["problems"])
            if not preview.problems:
                verb = "would be imported" if options["dry_run"] else "imported"
                what = "cases" if options["purpose"] == "cases" else f"classes ({', '.join(preview.names)})"
                there = f", {told['unchanged']} there already" if "unchanged" in told else ""
                self.stdout.write(f"{told['new']} {what} {verb}{there}, {told['skipped']} rows left out")
        if preview.problems:
            raise CommandError(f"{len(preview.problems)} problems; nothing was imported.")
