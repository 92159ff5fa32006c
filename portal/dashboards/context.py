"""What the frame around every page shows: navigation, projects, counts, theme. Read only when a page asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from django.http import HttpRequest
from django.urls import reverse

from portal.accounts.current import current_project
from portal.accounts.models import Membership, Project, Role, User
from portal.annotation.models import Campaign, Task

THEMES = tuple(User.Theme.values)


@dataclass(frozen=True)
class Place:
    label: str
    route: str
    icon: str
    group: str = ""
    also: tuple[str, ...] = ()  # other route names at which this place is the current one
    more: bool = False  # left out of the bottom bar of a telephone
    roles: tuple[str, ...] = ()  # in any project; empty: for everybody


PLACES = (
    Place("Home", "home", "home"),
    Place(
        "Studies",
        "studies",
        "studies",
        "Images",
        ("study", "patient", "upload", "pictures", "import_batch", "quarantine", "refusal"),
    ),
    Place(
        "PACS",
        "pacs",
        "download",
        "Images",
        ("node_query", "node_create", "node_edit", "pacs_send"),
        more=True,
        roles=(Role.MANAGER, Role.ENGINEER),
    ),
    Place(
        "Cohorts",
        "cohorts",
        "cohort",
        "Images",
        ("cohort", "cohort_create", "duplicates", "exports", "export"),
        more=True,
    ),
    Place("Clinical data", "clinical", "tag", "Images", ("table", "table_create"), more=True),
    Place("My reading", "my_reading", "reading", "Reading", ("reading_task",)),
    Place("Campaigns", "campaigns", "campaign", "Reading", ("campaign", "campaign_create")),
    Place("Models", "models", "model", "Models", ("model", "version", "run_create"), more=True),
    Place(
        "Training",
        "training_runs",
        "run",
        "Models",
        ("training_create", "training_compare", "cross_validation", "against_traditional"),
        more=True,
    ),
    Place("Routing", "rules", "split", "Models", ("rule", "rule_create", "rule_edit", "rule_try"), more=True),
    Place("Jobs", "jobs", "job", "Models", ("job",), more=True),
    Place("Evaluation", "evaluations", "evaluation", "Models", ("evaluation", "evaluate_create")),
)


class Frame:
    def __init__(self, request: HttpRequest):
        self.request = request
        self.user = getattr(request, "user", None)

    @cached_property
    def places(self) -> list[dict]:
        match = getattr(self.request, "resolver_match", None)
        here = match.url_name if match else ""
        places, group = [], ""
        roles = {project.role for project in self.projects}
        for place in PLACES:
            if place.roles and not self.user.is_superuser and not roles & set(place.roles):
                continue
            places.append(
                {
                    "label": place.label,
                    "url": reverse(place.route),
                    "icon": place.icon,
                    "group": place.group if place.group != group else "",
                    "current": here == place.route or here in place.also,
                    "more": place.more,
                    "count": self.waiting if place.route == "my_reading" else 0,
                }
            )
            group = place.group
        return places

    @cached_property
    def waiting(self) -> int:
        """Reading tasks that wait for this user."""
        if self.user is None or not self.user.is_authenticated:
            return 0
        return Task.objects.filter(
            reader=self.user,
            state__in=[Task.State.OPEN, Task.State.STARTED],
            campaign__state=Campaign.State.READING,
            campaign__project__in=Project.objects.visible_to(self.user),
        ).count()

    @cached_property
    def project(self) -> Project | None:
        return current_project(self.request)

    @cached_property
    def projects(self) -> list[Project]:
        projects = list(Project.objects.visible_to(self.user)[:50])
        roles = dict(Membership.objects.filter(user=self.user).values_list("project", "role"))
        for number, project in enumerate(projects):
            project.role = roles.get(project.pk, "administrator")
            project.color = f"var(--c{number % 8 + 1})"
        return projects

    @cached_property
    def project_color(self) -> str:
        chosen = self.project
        return next((p.color for p in self.projects if chosen and p.pk == chosen.pk), "var(--c8)")


def frame(request: HttpRequest) -> dict:
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        theme = user.theme
    else:
        theme = request.COOKIES.get("theme", "")
    return {"theme": theme if theme in THEMES else User.Theme.DARK, "frame": Frame(request)}
