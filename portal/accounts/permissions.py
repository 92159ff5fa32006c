"""What each role may do in a project. The one table behind pages, API and DICOMweb."""

from __future__ import annotations

from enum import StrEnum

from portal.accounts.models import Membership, Project, Role, User


class Action(StrEnum):
    VIEW = "view"  # see the project, its studies, models, evaluations
    IMPORT = "import"  # put images in
    CURATE = "curate"  # cohorts and reference standards
    RUN = "run"  # train, run, evaluate; see job logs
    READ = "read"  # be assigned reading tasks
    MANAGE = "manage"  # members, campaigns, promotion, deletion


ALLOWED: dict[Role, frozenset[Action]] = {
    Role.MANAGER: frozenset(Action),
    Role.ENGINEER: frozenset({Action.VIEW, Action.IMPORT, Action.CURATE, Action.RUN}),
    Role.READER: frozenset({Action.VIEW, Action.READ}),
    Role.VIEWER: frozenset({Action.VIEW}),
}


def role_in(user: User, project: Project) -> Role | None:
    """The user's role, or None. A superuser counts as manager everywhere; a token may be limited to one project."""
    if not user.is_authenticated or not user.is_active or user.only_project not in (None, project.pk):
        return None
    if user.is_superuser:
        return Role.MANAGER
    role = Membership.objects.filter(user=user, project=project).values_list("role", flat=True).first()
    return Role(role) if role else None


def may(user: User, action: Action, project: Project) -> bool:
    role = role_in(user, project)
    return role is not None and action in ALLOWED[role]


def projects_where(user: User, action: Action):
    """The projects in which the user may do `action`."""
    projects = Project.objects.visible_to(user)
    if user.is_superuser:
        return projects
    roles = [role for role, actions in ALLOWED.items() if action in actions]
    found = Project.objects.filter(memberships__user=user, memberships__role__in=roles)
    return found if user.only_project is None else found.filter(pk=user.only_project)
