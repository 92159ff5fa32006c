"""Which step leads from which state to which: the one table behind services, views and buttons."""

from __future__ import annotations

from portal.annotation.errors import CampaignError, NotReadable
from portal.annotation.models import Campaign, Task

C, T = Campaign.State, Task.State

CAMPAIGN_STEPS: dict[str, tuple[frozenset[Campaign.State], Campaign.State]] = {
    "discard": (frozenset({C.DRAFT}), C.DRAFT),
    "start": (frozenset({C.DRAFT}), C.READING),
    "pause": (frozenset({C.READING}), C.PAUSED),
    "resume": (frozenset({C.PAUSED}), C.READING),
    "close": (frozenset({C.READING, C.PAUSED}), C.CLOSED),
    "change_readers": (frozenset({C.DRAFT, C.READING, C.PAUSED}), C.READING),
    "adjudicate": (frozenset({C.READING, C.PAUSED, C.CLOSED}), C.CLOSED),
    "publish": (frozenset({C.READING, C.PAUSED, C.CLOSED}), C.CLOSED),
}

TASK_STEPS: dict[str, tuple[frozenset[Task.State], Task.State]] = {
    "save": (frozenset({T.OPEN, T.STARTED, T.SKIPPED}), T.STARTED),
    "revise": (frozenset({T.SUBMITTED}), T.SUBMITTED),
    "submit": (frozenset({T.STARTED, T.SUBMITTED}), T.SUBMITTED),
    "skip": (frozenset({T.OPEN, T.STARTED, T.SKIPPED}), T.SKIPPED),
    "withdraw": (frozenset({T.OPEN, T.STARTED, T.SKIPPED}), T.WITHDRAWN),
    "reinstate": (frozenset({T.WITHDRAWN}), T.OPEN),
}

# Steps that leave the campaign where it is.
_STAYS = frozenset({"discard", "change_readers", "adjudicate", "publish"})


def can(campaign: Campaign, step: str) -> bool:
    return C(campaign.state) in CAMPAIGN_STEPS[step][0]


def steps_of(campaign: Campaign) -> list[str]:
    """The steps that its buttons may offer now."""
    return [step for step in CAMPAIGN_STEPS if can(campaign, step)]


def after(campaign: Campaign, step: str) -> Campaign.State:
    """The state that `step` leads to; CampaignError where it is not allowed now."""
    if not can(campaign, step):
        raise CampaignError(
            f"A campaign that is {campaign.get_state_display().lower()} cannot do this: {step.replace('_', ' ')}.",
            "Reload the page to see what is possible now.",
        )
    return C(campaign.state) if step in _STAYS else CAMPAIGN_STEPS[step][1]


def task_can(task: Task, step: str) -> bool:
    return T(task.state) in TASK_STEPS[step][0]


def readable(task: Task) -> bool:
    """The reader may work on it now."""
    return task.campaign.state == C.READING and task.state != T.WITHDRAWN


def require_readable(task: Task) -> None:
    """NotReadable, in words, where the campaign is not being read or the task was taken back."""
    state = C(task.campaign.state)
    if state == C.PAUSED:
        raise NotReadable(
            "This campaign is paused; nothing can be saved or submitted.",
            "Your saved work is kept. Go on when the campaign's manager resumes it.",
        )
    if state == C.CLOSED:
        raise NotReadable("This campaign is closed; its readings are final.", "Your submitted readings are kept.")
    if state == C.DRAFT:
        raise NotReadable("This campaign has not started yet.", "Come back when its manager has started it.")
    if task.state == T.WITHDRAWN:
        raise NotReadable(
            "This case is no longer assigned to you.", "What you had saved is kept. Go on with your next case."
        )


def task_after(task: Task, step: str) -> Task.State:
    if not task_can(task, step):
        raise NotReadable(
            f"A case that is {task.get_state_display().lower()} cannot do this: {step}.", "Reload the page."
        )
    return TASK_STEPS[step][1]
