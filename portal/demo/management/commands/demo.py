"""`manage.py demo`: load the demonstration and wait for it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from inference.jobs.models import Job
from inference.jobs.waiting import follow
from portal.accounts.models import User
from portal.demo import services
from portal.demo.workers import workers


class Command(BaseCommand):
    help = (
        "Load the demonstration into the project Demo: sample files, synthetic phantoms, a model that is trained, run"
        " and evaluated, and a reading campaign. Takes a few minutes; running it again adds nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", help="administrator in whose name this is done; the first one otherwise")
        parser.add_argument("--no-wait", action="store_true", help="only queue the job")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        administrators = User.objects.filter(is_superuser=True, is_active=True).order_by("pk")
        if options["user"]:
            administrators = administrators.filter(username=options["user"])
        by = administrators.first()
        if by is None:
            raise CommandError("There is no such administrator. Start the portal once with `make run`: it makes one.")
        job = services.request(by=by)
        if not options["no_wait"] and not job.ended:
            with workers(self.stderr.write):
                job = follow(job, self.stderr._out)  # type: ignore[arg-type]
        found = {"job": job.pk, "state": job.state, **job.result}
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        if job.state in (Job.State.FAILED, Job.State.CANCELLED):
            raise CommandError(f"Job {job.pk} {job.state}. {job.cause} {job.next_step}".strip())
        if not options["json"]:
            self.stdout.write(
                f"The demonstration is in the project {job.project}."
                if job.ended
                else f"The demonstration is being loaded as job {job.pk}: see /jobs/{job.pk}/"
            )
