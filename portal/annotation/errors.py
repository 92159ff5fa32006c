"""What can go wrong in a campaign, with the cause and the next step in words for people."""

from __future__ import annotations

from portal.annotation.models import Draft


class AnnotationError(Exception):
    """Base of all: `cause` says what is wrong, `next_step` what to do; `field` names the form field at fault."""

    def __init__(self, cause: str, next_step: str = "", field: str = "") -> None:
        self.cause, self.next_step, self.field = cause, next_step, field
        super().__init__(f"{cause} {next_step}".strip())


class CampaignError(AnnotationError):
    """A campaign cannot be made or steered like that."""


class NotReadable(AnnotationError):
    """The task cannot be worked on now: the campaign is paused or closed, or the task was withdrawn."""


class StaleDraft(AnnotationError):
    """A newer draft exists than the one that this change was based on."""

    def __init__(self, newest: Draft | None) -> None:
        self.newest = newest
        super().__init__(
            "This case was changed in another window.", "Load the newest draft, then repeat what is missing."
        )


class Incomplete(AnnotationError):
    """Answers are missing or wrong; `errors` says which, by question or segment."""

    def __init__(self, errors: dict[str, str]) -> None:
        self.errors = errors
        super().__init__("The reading is not complete.", "See the marked questions.")


class NotStored(AnnotationError):
    """What was read back after saving differs from what was to be saved."""


class NotAdjudicable(AnnotationError):
    """A decision on a case is not possible like that."""
