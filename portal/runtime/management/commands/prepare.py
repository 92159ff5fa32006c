from typing import Any

from django.core.management.base import BaseCommand, CommandError

from portal.runtime import first_run
from portal.runtime.data_folder import DataFolder
from portal.runtime.errors import RuntimeProblem


class Command(BaseCommand):
    help = "Migrates, collects static files, installs the viewer and makes the first administrator; then ends."
    requires_system_checks = []
    requires_migrations_checks = False

    def handle(self, **options: Any) -> None:
        data = DataFolder()
        try:
            password = first_run.prepare(data, self.stdout.write)
        except RuntimeProblem as problem:
            raise CommandError(str(problem)) from None
        if password is not None:
            self.stdout.write(f"User {first_run.ADMINISTRATOR}; the password is in {data.admin_password}")
