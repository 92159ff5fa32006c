"""The only writers of users, projects, memberships and tokens."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from portal.accounts.models import ApiToken, Membership, Project, Role, User


@transaction.atomic
def create_project(*, slug: str, name: str, by: User | None, description: str = "", synthetic: bool = False) -> Project:
    """Make a project; whoever makes it becomes its manager."""
    project = Project.objects.create(slug=slug, name=name, description=description, created_by=by, synthetic=synthetic)
    if by is not None:
        set_role(project=project, user=by, role=Role.MANAGER)
    return project


def set_role(*, project: Project, user: User, role: Role) -> Membership:
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    return membership


def remove_member(*, project: Project, user: User) -> None:
    Membership.objects.filter(project=project, user=user).delete()


def issue_token(*, user: User, name: str = "", expires_at: datetime | None = None) -> str:
    """Make a token and return it; it cannot be shown again."""
    secret = ApiToken.new_secret()
    ApiToken.objects.create(user=user, name=name, digest=ApiToken.digest_of(secret), expires_at=expires_at)
    return secret


def revoke_token(token: ApiToken) -> None:
    token.delete()
