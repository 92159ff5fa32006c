"""What beat runs. The reaper is not a job itself: it looks after them."""

from celery import shared_task  # noqa: TID251

from inference.jobs import services


@shared_task(name="inference.jobs.reap", ignore_result=True, acks_late=False)
def reap() -> None:
    services.reap()
