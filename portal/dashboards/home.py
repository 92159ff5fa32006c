"""What the home page shows: what waits for me, what runs, what I manage, what came in."""

from __future__ import annotations

from datetime import date

from django.db.models import Count, Max, Q

from inference.jobs.models import Job
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, projects_where
from portal.annotation.models import Campaign, Draft, Task
from portal.worklist.rows import Row
from portal.worklist.rows import build as rows_of
from studies.models import Study

# Withdrawn tasks are nobody's work any more.
IN_FORCE = ~Q(tasks__state=Task.State.WITHDRAWN)


def reading(user: User, projects) -> list[dict]:
    """One entry per campaign in which tasks wait for `user`: progress, the next task, when a draft was saved last."""
    campaigns = (
        Campaign.objects.visible_to(user)
        .filter(state=Campaign.State.READING, project__in=projects)
        .annotate(
            total=Count("tasks", filter=Q(tasks__reader=user) & IN_FORCE),
            done=Count(
                "tasks", filter=Q(tasks__reader=user, tasks__state__in=[Task.State.SUBMITTED, Task.State.SKIPPED])
            ),
        )
        .filter(total__gt=0)
        .select_related("project")
        .order_by("due_date", "id")
    )
    waiting: dict[int, Task] = {}
    tasks = Task.objects.filter(
        reader=user, state__in=[Task.State.OPEN, Task.State.STARTED], campaign__in=campaigns
    ).select_related("case__study")
    # A draft comes first, then the order of the campaign.
    for task in sorted(tasks, key=lambda task: (task.state != Task.State.STARTED, task.position)):
        waiting.setdefault(task.campaign_id, task)
    saved = dict(Draft.objects.filter(task__in=waiting.values()).values_list("task").annotate(last=Max("saved_at")))
    return [
        {
            "campaign": campaign,
            "total": campaign.total,
            "done": campaign.done,
            "fraction": campaign.done / campaign.total,
            "text": f"{campaign.done} of {campaign.total} done",
            "task": waiting[campaign.pk],
            "saved_at": saved.get(waiting[campaign.pk].pk),
        }
        for campaign in campaigns
        if campaign.pk in waiting
    ]


def jobs(user: User, projects, limit: int = 6) -> list[Job]:
    """Running jobs, then queued ones in their order."""
    going = [Job.State.RUNNING, Job.State.QUEUED]
    rows = (
        Job.objects.visible_to(user)
        .filter(state__in=going, project__in=projects)
        .only("title", "state", "progress", "progress_text")
        .order_by("-state", "id")[:limit]
    )
    for job in rows:
        job.share = f"{100 * job.progress:.0f} %"
    return list(rows)


def failures(user: User, projects, limit: int = 3) -> list[Job]:
    """The user's own jobs that failed and were not tried again."""
    failed = Job.objects.visible_to(user).filter(state=Job.State.FAILED, created_by=user, project__in=projects)
    return list(failed.order_by("-finished_at", "-id")[:limit])


def campaigns(user: User, projects, today: date, limit: int = 8) -> list[Campaign]:
    """Campaigns of projects that the user manages, not yet closed, with submitted and planned reads."""
    rows = (
        Campaign.objects.visible_to(user)
        .filter(project__in=projects_where(user, Action.MANAGE))
        .filter(project__in=projects)
        .exclude(state=Campaign.State.CLOSED)
        .annotate(
            total=Count("tasks", filter=IN_FORCE),
            done=Count("tasks", filter=Q(tasks__state=Task.State.SUBMITTED)),
            flagged=Count("tasks", filter=~Q(tasks__flag="")),
        )
        .order_by("due_date", "-id")[:limit]
    )
    for row in rows:
        row.fraction = row.done / row.total if row.total else 0.0
        row.text = f"{row.done} of {row.total} reads"
        row.share = f"{100 * row.fraction:.0f} %"
        row.overdue = row.due_date is not None and row.due_date < today
    return list(rows)


def recent_studies(user: User, projects, limit: int = 10) -> list[Row]:
    visible = Study.objects.visible_to(user).filter(project__in=projects)
    return rows_of(visible.select_related("patient").order_by("-id")[:limit], user)


def shown_projects(user: User, chosen: Project | None):
    return Project.objects.filter(pk=chosen.pk) if chosen else Project.objects.visible_to(user)
