"""The project that the top bar shows; lists are narrowed to it. None means every project of the user."""

from __future__ import annotations

from django.http import HttpRequest

from portal.accounts.models import Project

SESSION_KEY = "project"


def current_project(request: HttpRequest) -> Project | None:
    slug = request.session.get(SESSION_KEY)
    if not slug or not request.user.is_authenticated:
        return None
    return Project.objects.visible_to(request.user).filter(slug=slug).first()


def select_project(request: HttpRequest, project: Project | None) -> None:
    if project is None:
        request.session.pop(SESSION_KEY, None)
    else:
        request.session[SESSION_KEY] = project.slug
