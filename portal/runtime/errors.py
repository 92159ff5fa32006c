"""What can go wrong while the portal starts, in words an administrator can act on."""


class RuntimeProblem(Exception):
    """The portal cannot start or go on. Says what is wrong and what to do about it."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause} {next_step}".strip())
        self.cause = cause
        self.next_step = next_step
