"""What the commands that queue a job share: who, where, and waiting with words."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError

from inference.jobs.models import Job
from inference.jobs.waiting import follow
from portal.accounts.models import Project, User
from portal.runtime.errors import RuntimeProblem
from portal.runtime.workers import ensure_workers


class JobCommand(BaseCommand):
    """A command that starts a job. Progress goes to stderr, the result to stdout: as JSON with `--json`."""

    def add_job_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", default="", help="slug of the project")
        parser.add_argument("--user", help="name of the user in whose name this is done")
        parser.add_argument(
            "--priority",
            default="normal",
            choices=[priority.name.lower() for priority in Job.Priority],
            help="how urgent it is among the jobs of its queue",
        )
        parser.add_argument("--wait", action="store_true", help="wait until the job has ended, with progress")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def add_config_arguments(self, parser: ArgumentParser, preset: str) -> None:
        """The file, changes to it, and on what it is used."""
        parser.add_argument("config", type=Path, help=f"TOML file, for example inference/training/presets/{preset}")
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a setting in place of what the file says, in TOML: training.epochs=30; may be given several times",
        )
        parser.add_argument("--cohort", default="", help="name or id of the cohort; data.cohort of the file otherwise")
        parser.add_argument(
            "--reference", default="", help="name or id of the reference standard; the newest otherwise"
        )

    def find_user(self, name: str | None) -> User | None:
        if not name:
            return None
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"There is no user “{name}”.")
        return user

    def priority_of(self, options: dict[str, Any]) -> Job.Priority:
        return Job.Priority[options["priority"].upper()]

    def find_project(self, slug: str) -> Project:
        """The named project; the only one there is where none is named."""
        projects = list(Project.objects.filter(slug=slug) if slug else Project.objects.all()[:2])
        if len(projects) == 1:
            return projects[0]
        if slug:
            raise CommandError(f"There is no project “{slug}”. See `Projects` in the portal.")
        raise CommandError("Say which project with --project." if projects else "There is no project yet.")

    def end(
        self, job: Job, options: dict[str, Any], started: dict[str, Any], result: Callable[[Job], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Wait where asked for, print, and fail where the job failed. Returns the result where it is known.

        started: ids to print at once where nobody waits; result: what to print of the ended job.
        """
        if not options["wait"]:
            self._print_json({"job": job.pk, "state": job.state, **started}) if options["json"] else self.stdout.write(
                f"Queued as job {job.pk}: see /jobs/{job.pk}/"
            )
            return None
        try:
            with ensure_workers([job.queue]):
                job = follow(job, cast(TextIO, self.stderr._out))
        except RuntimeProblem as problem:
            raise CommandError(f"{problem} Job {job.pk} stays in the queue.") from problem
        if job.state != Job.State.SUCCEEDED:
            if options["json"]:
                self._print_json(
                    {"job": job.pk, "state": job.state, "cause": job.cause, "next_step": job.next_step, **started}
                )
            raise CommandError(f"Job {job.pk} {job.state}. {job.cause} {job.next_step}".strip())
        found = {"job": job.pk, "state": job.state, **started, **result(job)}
        if options["json"]:
            self._print_json(found)
        return found

    def _print_json(self, value: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(value, indent=2))


def figure(value: dict[str, Any], *, digits: int = 3) -> str:
    """`0.871 [0.862, 0.879], n = 24 (BCa bootstrap …)`, or why there is no figure."""
    if value.get("estimate") is None:
        return f"not defined: {value.get('reason', 'no value')}"
    text = f"{value['estimate']:.{digits}f}"
    if value.get("lower") is not None:
        text += f" [{value['lower']:.{digits}f}, {value['upper']:.{digits}f}]"
    return f"{text}, n = {value['n']} ({value['method']})"
