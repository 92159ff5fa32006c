"""Fetch, check and unpack the pinned OHIF viewer below DATA."""

import os
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.viewer import install


class Command(BaseCommand):
    help = "Install the pinned OHIF viewer below DATA/viewer; quick where it is there already."
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser):
        parser.add_argument("--tarball", type=Path, help="Use this file, no download (default: VIEWER_TARBALL)")

    def handle(self, *args, **options):
        given = options["tarball"] or os.environ.get("VIEWER_TARBALL") or None
        try:
            folder = install.install(
                settings.DATA, tarball=Path(given).expanduser().absolute() if given else None, say=self.stdout.write
            )
        except install.InstallError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Viewer {install.VERSION} is in {folder}")
