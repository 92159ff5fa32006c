"""What beat runs. The reaper is not a job itself: it looks after them."""

from inference.jobs import services
from inference.jobs.task import periodic


@periodic("inference.jobs.reap")
def reap() -> None:
    services.reap()
