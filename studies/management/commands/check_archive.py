"""Find, and repair where nothing can be lost, what does not fit together in the archive."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from studies.ingest.checking import check


class Command(BaseCommand):
    help = (
        "Compare the archive's rows with its files. Ends with an error while something is left that only a person can "
        "decide. Safe to run beside imports."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--repair", action="store_true", help="repair what can be repaired without losing anything")
        parser.add_argument("--deep", action="store_true", help="read every stored byte and compare digests")
        parser.add_argument(
            "--grace",
            type=float,
            default=3600.0,
            metavar="SECONDS",
            help="leave files alone that are younger, an import may be writing them (default: an hour)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, **options: Any) -> None:
        report = check(repair=options["repair"], deep=options["deep"], grace=options["grace"])
        if options["json"]:
            self.stdout.write(json.dumps({**asdict(report), "left": len(report.left)}, indent=2))
        else:
            for finding in report.findings:
                done = f" → {finding.repaired}" if finding.repaired else ""
                self.stdout.write(f"{finding.kind}  {finding.where}  {finding.what}{done}")
            kinds = Counter(finding.kind for finding in report.findings)
            found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing wrong"
            self.stdout.write(
                f"{report.instances} objects of {report.studies} studies, {report.files} files: {found}"
                + (f" ({report.under_way} files too young to judge)" if report.under_way else "")
            )
        if report.left:
            hint = "" if options["repair"] else " --repair settles what is safe to settle."
            raise CommandError(f"{len(report.left)} finding(s) are left.{hint}")
