"""Asking for the demonstration: one project, one job, however often it is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from django.db import transaction

from inference.jobs import services as jobs
from inference.jobs.models import Job
from portal.accounts import services as accounts
from portal.accounts.models import Project, User

# The second name is for sites that have a project “demo” of their own.
SLUGS = ("demo", "readroom-demo")
DESCRIPTION = (
    "Demonstration. Sample files that the pydicom package ships, and synthetic phantoms with known truth. Readers are"
    " synthetic as well: their drawings are the truth with noise."
)


@dataclass(frozen=True)
class Size:
    """How much there is of it. Sixty-four phantoms leave 32 for the test: figures need thirty."""

    phantoms: int = 64
    reading_cases: int = 10
    own_cases: int = 4
    epochs: int = 40


@transaction.atomic
def request(*, by: User, size: Size = Size()) -> Job:
    """The job that loads the demonstration: the one there is, queued again where it had failed, or a new one."""
    from portal.demo.tasks import load_demo  # the task module imports the steps, which load slowly

    project = _project(by)
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # whoever asks at the same time waits here
    job = Job.objects.filter(project=project, task=load_demo.name).order_by("-id").first()
    if job is None:
        return jobs.submit(load_demo, project=project, title="Load the demonstration", parameters=asdict(size), by=by)
    return jobs.retry(job, by=by) if job.is_retryable else job


def _project(by: User) -> Project:
    for slug in SLUGS:
        project = Project.objects.filter(slug=slug).first()
        if project is None:
            return accounts.create_project(slug=slug, name="Demo", description=DESCRIPTION, synthetic=True, by=by)
        if project.synthetic:
            return project
    return Project.objects.get(slug=SLUGS[-1])
