"""Who may see and steer what of a campaign; the same answers for pages and API."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from portal.accounts.models import Role, User
from portal.accounts.permissions import Action, may, role_in
from portal.annotation.models import Campaign


class SignedIn(HttpRequest):
    """A request behind the login; LoginRequiredMiddleware lets no other through."""

    user: User


def campaigns(user: User) -> QuerySet[Campaign]:
    return Campaign.objects.visible_to(user).select_related("project", "cohort", "ai_version__model", "created_by")


def campaign_of(request: SignedIn, pk: int) -> Campaign:
    return get_object_or_404(campaigns(request.user), pk=pk)


def steered(request: SignedIn, pk: int) -> Campaign:
    """A campaign that the user may steer: 404 where it cannot be seen, 403 where the role does not allow it."""
    campaign = campaign_of(request, pk)
    if not manages(request.user, campaign):
        raise PermissionDenied("Only managers of the project steer its campaigns.")
    return campaign


def manages(user: User, campaign: Campaign) -> bool:
    return may(user, Action.MANAGE, campaign.project)


def reads_in(user: User, campaign: Campaign) -> bool:
    """Is or was a reader of the campaign."""
    return campaign.readers.filter(user=user).exists() or campaign.tasks.filter(reader=user).exists()


def sees_everyone(user: User, campaign: Campaign) -> bool:
    """May see how far each reader is; readers see themselves only."""
    return role_in(user, campaign.project) in (Role.MANAGER, Role.ENGINEER, Role.VIEWER)


def sees_results(user: User, campaign: Campaign) -> bool:
    """May see what readers answered and how they agree: nobody who still reads in the campaign, manager or not."""
    if not sees_everyone(user, campaign):
        return False
    return campaign.state == Campaign.State.CLOSED or not reads_in(user, campaign)
