"""The only writers of users, projects, memberships and tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib.auth.forms import PasswordChangeForm
from django.db import transaction

from portal.accounts.audit import trail
from portal.accounts.errors import AccountError
from portal.accounts.models import ApiToken, Membership, Project, Role, User


@transaction.atomic
def create_project(*, slug: str, name: str, by: User | None, description: str = "", synthetic: bool = False) -> Project:
    """Make a project; whoever makes it becomes its manager."""
    project = Project.objects.create(slug=slug, name=name, description=description, created_by=by, synthetic=synthetic)
    trail.record("project.create", project, user=by if by is not None else trail.CALLER)
    if by is not None:
        set_role(project=project, user=by, role=Role.MANAGER)
    return project


def _manager_stays(project: Project, user: User) -> None:
    """Refuse to leave a project without a manager."""
    managers = Membership.objects.select_for_update().filter(project=project, role=Role.MANAGER)
    if {membership.user_id for membership in managers} == {user.pk}:
        raise AccountError(f"{user} is the only manager of {project}.", "Make somebody else manager first.")


def managers_of(project: Project) -> int:
    return Membership.objects.filter(project=project, role=Role.MANAGER).count()


@transaction.atomic
def set_role(*, project: Project, user: User, role: Role) -> Membership:
    """Make `user` a member, or change the role. Raises AccountError where it would take away the last manager."""
    if role != Role.MANAGER:
        _manager_stays(project, user)
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    trail.record("member.set", user, project=project, role=str(role))
    return membership


@transaction.atomic
def remove_member(*, project: Project, user: User) -> None:
    """End a membership; what the member made stays. Raises AccountError for the last manager."""
    _manager_stays(project, user)
    Membership.objects.filter(project=project, user=user).delete()
    trail.record("member.remove", user, project=project)


@transaction.atomic
def create_user(*, username: str, password: str, first_name: str = "", last_name: str = "", email: str = "") -> User:
    """Make an account without any right; a membership gives rights."""
    user = User.objects.create_user(
        username=username, password=password, first_name=first_name, last_name=last_name, email=email
    )
    trail.record("user.create", user)
    return user


@transaction.atomic
def set_active(user: User, active: bool) -> None:
    """Let an account in or keep it out; a deactivated user's sessions and tokens stop working at once."""
    user.is_active = active
    user.save(update_fields=["is_active"])
    trail.record("user.activate" if active else "user.deactivate", user)


@transaction.atomic
def change_password(form: PasswordChangeForm) -> None:
    """Save a valid form; every other session of the user ends."""
    user: Any = form.save()
    trail.record("user.password", user)


def set_theme(user: User, theme: str) -> None:
    user.theme = User.Theme(theme)
    user.save(update_fields=["theme"])


@transaction.atomic
def issue_token(
    *,
    user: User,
    name: str = "",
    expires_at: datetime | None = None,
    scope: str = ApiToken.Scope.FULL,
    project: Project | None = None,
) -> str:
    """Make a token; it cannot be shown again. Raises AccountError for a project that is not the user's."""
    if project is not None and not Project.objects.visible_to(user).filter(pk=project.pk).exists():
        raise AccountError(f"{user} is not a member of {project}.", "Choose another project.")
    secret = ApiToken.new_secret()
    token = ApiToken.objects.create(
        user=user,
        name=name,
        digest=ApiToken.digest_of(secret),
        expires_at=expires_at,
        scope=ApiToken.Scope(scope),
        project=project,
    )
    trail.record("token.create", token, owner=user.pk, scope=str(token.scope))
    return secret


@transaction.atomic
def revoke_token(token: ApiToken) -> None:
    trail.record("token.revoke", token, owner=token.user_id)
    token.delete()
