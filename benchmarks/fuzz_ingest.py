"""Import damaged files and report what came of them: `python -m benchmarks.fuzz_ingest 10000 [first seed]`.

Works in a test database of its own and a temporary folder; needs DATABASE_URL of a server where databases may be made.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.test")

import django

django.setup()


def main(count: int, first: int) -> int:
    from django.db import connection
    from django.test.utils import override_settings

    from portal.accounts.models import Project
    from studies.ingest import checking
    from tests.studies.ingest.fuzzing import Figures, fuzz

    name = connection.creation.create_test_db(verbosity=0, autoclobber=True)
    figures, began = Figures(), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, override_settings(MEDIA_ROOT=folder):
            project = Project.objects.create(slug="fuzz", name="Fuzz")
            for start in range(first, first + count, 500):
                fuzz(project, range(start, min(start + 500, first + count)), figures)
                done = sum(figures.outcomes.values())
                print(f"{done} files, {len(figures.crashes)} crashes, {time.monotonic() - began:.0f} s", flush=True)
            left = checking.check(deep=True, grace=0).findings
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)
    print(dict(figures.outcomes.most_common()))
    print(dict(figures.pictures))
    print(f"slowest file {figures.slowest:.2f} s; check_archive: {len(left)} findings")
    for line in [*figures.crashes, *figures.slow, *figures.lost, *map(str, left)]:
        print(line)
    return 1 if figures.crashes or figures.slow or figures.lost or left else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000))
