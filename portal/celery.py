"""The Celery application; tasks are declared with `inference.jobs.task.job_task` only."""

import os
from typing import Any

from celery import Celery, signals

from portal.runtime.process import die_with_supervisor

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings.dev")

app = Celery("readroom")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Django has set up the logs; with a receiver of this signal Celery leaves them alone."""


@signals.worker_init.connect
def show_liveness(sender: Any, **_: Any) -> None:
    from portal.runtime.liveness import QueueLiveness

    sender.app.steps["consumer"].add(QueueLiveness)


@signals.worker_process_init.connect
def follow_main_process(**_: Any) -> None:
    die_with_supervisor()
