"""Errors of background work. Each says what happened and what to do next."""

from __future__ import annotations


class JobError(Exception):
    """Ends a job as failed, with words for people.

    `cause` says in the reader's terms what is wrong, `next_step` what to do about it. Neither may carry a patient's
    identity: both are shown on pages, sent by the API and kept in the log.
    """

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step


class TimeLimitReached(JobError):
    """The job ran longer than its task allows."""


class JobStopped(Exception):
    """Raised inside a task by `Run.check()`; a task lets it pass."""


class Cancelled(JobStopped):
    """Somebody asked for this job to be cancelled."""


class LeaseLost(JobStopped):
    """Another attempt owns the job now; this one must write nothing more."""


class IllegalTransition(Exception):
    """The job is not in a state from which this is possible."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step
