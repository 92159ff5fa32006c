from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.runtime import dumps
from portal.runtime.errors import RuntimeProblem


class Command(BaseCommand):
    help = "Fills an empty database from a file of backup_database."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *, file: Path, **options: Any) -> None:
        try:
            dumps.restore(file.absolute())
        except RuntimeProblem as problem:
            raise CommandError(str(problem)) from None
        self.stdout.write(f"Restored from {file}")
