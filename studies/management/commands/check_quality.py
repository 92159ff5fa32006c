"""Look for missing slices, blank images and other defects of the archive's series."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts.models import Project
from studies.quality import services
from studies.quality.models import Check, Finding


class Command(BaseCommand):
    help = "Check image series that are new or have changed; with --all every one again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", metavar="SLUG", help="only this project")
        parser.add_argument("--all", action="store_true", help="check again what was checked before")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, *, project: str | None, **options: Any) -> None:
        chosen = Project.objects.filter(slug=project).first() if project else None
        if project and chosen is None:
            raise CommandError(f"There is no project “{project}”.")
        if options["all"]:
            checks = Check.objects.filter(series__study__project=chosen) if chosen else Check.objects.all()
            checks.delete()
        found: list[Finding] = []
        n = services.check_pending(chosen, settled=False, on_checked=lambda series, findings: found.extend(findings))
        if options["json"]:
            rows = [
                {
                    "study": one.series.study.study_instance_uid,
                    "series": one.series.series_instance_uid,
                    "code": one.code,
                    "reason": one.reason,
                    "numbers": one.numbers,
                }
                for one in found
            ]
            self.stdout.write(json.dumps({"checked": n, "findings": rows}, indent=2))
            return
        for one in found:
            self.stdout.write(f"series {one.series_id}: {one.code}: {one.reason}")
        self.stdout.write(f"{n} series checked, {len(found)} findings")
