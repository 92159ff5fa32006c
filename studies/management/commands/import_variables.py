"""`manage.py import_variables`: clinical values from CSV or XLSX, checked row by row, all or nothing."""

from __future__ import annotations

import hashlib
import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from portal.accounts.models import Project, User
from studies.cohorts import suggestions, variables
from studies.cohorts.clinical import TableImport
from studies.cohorts.errors import CohortError
from studies.cohorts.table_imports import as_json
from studies.cohorts.tables import Choices, Column
from studies.management import tables
from studies.tabular import reading
from studies.tabular.problems import TableError
from studies.tabular.values import DATE_ORDERS, DECIMAL_MARKS


class Command(BaseCommand):
    help = (
        "Import clinical variables (numbers with unit, categories, dates, survival times) from a CSV or XLSX file. What"
        " each column is, is suggested from heading and content; --column changes it. Every problem is named with row"
        " and column, and nothing is imported while there is one. Running it again adds nothing twice."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--dry-run", action="store_true", help="say what would be imported, and import nothing")
        parser.add_argument(
            "--column", action="append", default=[], metavar="HEADING=KIND[:UNIT]",
            help="patient_id, study_instance_uid, accession_number, case, measured_at, number, category, date,"
            " survival, event, birth_date, sex, person or ignore; may be given again",
        )  # fmt: skip
        parser.add_argument(
            "--per-patient", action="append", default=[], metavar="HEADING", help="not repeated by date"
        )
        parser.add_argument("--encoding", default="", choices=["", *reading.ENCODINGS], help="detected where not given")
        parser.add_argument("--delimiter", default="", help="detected where not given")
        parser.add_argument("--sheet", default="", help="of a workbook; the first that is not empty")
        parser.add_argument("--decimal", default="", choices=["", *DECIMAL_MARKS], help="detected for each column")
        parser.add_argument("--dates", default="", choices=["", *DATE_ORDERS], help="detected for each column")
        parser.add_argument("--fill-down", action="store_true", help="an empty identifier means the one above")
        parser.add_argument(
            "--unknown", default="refuse", choices=["refuse", "skip", "create"], help="unknown patients"
        )
        parser.add_argument("--replace", action="store_true", help="values that are stored already may change")
        parser.add_argument("--accept", action="append", default=[], choices=["same_person", "two_persons"])
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, *, file: Path, project: str, **options: Any) -> None:
        chosen, by = tables.project_of(project), tables.user_of(options["user"])
        reading_as = {key: options[key] for key in ("encoding", "delimiter", "sheet")}
        data = tables.bytes_of(file)
        try:
            table = reading.read(data, **reading_as)
            choices = self._choices(suggestions.suggest(table), options)
            if options["dry_run"]:
                plan = variables.plan(table, choices, chosen)
            else:
                plan = self._commit(table, choices, chosen, file, data, by)
        except TableError as error:
            self._end({"problems": [error.problem.as_json()]}, file, options)
        except CohortError as error:
            raise CommandError(str(error)) from error
        self._end({"dry_run": options["dry_run"], **plan.as_json()}, file, options)

    def _commit(
        self, table: reading.Table, choices: Choices, project: Project, file: Path, data: bytes, by: User | None
    ) -> variables.Plan:
        plan = variables.plan(table, choices, project)
        if plan.problems:
            return plan
        record = TableImport.objects.create(
            project=project, purpose=TableImport.Purpose.VARIABLES, name=file.name[:255], created_by=by,
            sha256=hashlib.sha256(data).hexdigest(), choices=as_json(choices), state=TableImport.State.DONE,
            finished_at=timezone.now(),
        )  # fmt: skip
        return variables.commit(table, choices, project, record=record, by=by)

    def _choices(self, suggested: Choices, options: dict[str, Any]) -> Choices:
        columns: list[Column] = []
        for column in tables.columns_of(suggested, options["column"]):
            if column.name in options["per_patient"]:
                column = replace(column, constant=True)
            columns.append(replace(column, decimal=options["decimal"], dates=options["dates"]))
        return replace(
            suggested,
            columns=columns,
            fill_down=suggested.fill_down or options["fill_down"],
            unknown=options["unknown"],
            replace=options["replace"],
            accept=tuple(options["accept"]),
        )

    def _end(self, told: dict[str, Any], file: Path, options: dict[str, Any]) -> None:
        problems = told["problems"]
        for problem in problems:
            problem["file"] = file.name
        if options["json"]:
            self.stdout.write(json.dumps(told, ensure_ascii=False))
        else:
            tables.tell_problems(self.stdout, file, problems)
            if not problems:
                verb = "would be imported" if options["dry_run"] else "imported"
                self.stdout.write(
                    f"{told['new']} values {verb}, {told['changed']} changed, {told['unchanged']} there already ·"
                    f" {len(told['variables'])} variables, {told['patients']} patients, {told['skipped']} rows left out"
                )
        if problems:
            raise CommandError(f"{len(problems)} problems; nothing was imported.")
