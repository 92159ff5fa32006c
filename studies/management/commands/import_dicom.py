"""Bring DICOM files into the archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts.models import Project
from portal.accounts.services import create_project
from studies.ingest.importing import import_paths
from studies.ingest.outcome import Outcome, State
from studies.ingest.store import open_batch
from studies.models import ImportBatch


class Command(BaseCommand):
    help = "Import DICOM files, folders and zip archives into a project."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--create-project", action="store_true", help="make the project where it is missing")
        parser.add_argument("--json", action="store_true", help="print one JSON object for a program to read")

    def handle(self, *, paths: list[Path], project: str, create_project: bool, **options: Any) -> None:
        batch = open_batch(_project(project, create_project), ImportBatch.Source.COMMAND)
        summary = import_paths(paths, batch=batch, on_outcome=None if options["json"] else self._show)
        if options["json"]:
            self.stdout.write(json.dumps(summary.as_json(), indent=2))
        else:
            counts = ", ".join(f"{summary.count(state)} {state.value}" for state in State)
            self.stdout.write(f"{counts} (import {batch.pk})")
        if not summary.outcomes:
            raise CommandError("There was no file to import.")
        if summary.count(State.REFUSED) == len(summary.outcomes):
            raise CommandError("Nothing could be imported; see the reasons above.")

    def _show(self, outcome: Outcome) -> None:
        if outcome.refused:
            self.stdout.write(f"refused {outcome.name}: {outcome.code}: {outcome.reason}")


def _project(slug: str, create: bool) -> Project:
    project = Project.objects.filter(slug=slug).first()
    if project is None and create:
        return create_project(slug=slug, name=slug.replace("-", " ").capitalize(), by=None)
    if project is None:
        raise CommandError(f"There is no project “{slug}”. Name another, or add --create-project.")
    return project
