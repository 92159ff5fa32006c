"""Workers for commands that wait for their job: the running ones, or one for the time being."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import redis
from django.conf import settings
from django.db import connection

from portal.runtime import commands
from portal.runtime.data_folder import REPOSITORY, DataFolder
from portal.runtime.errors import RuntimeProblem
from portal.runtime.liveness import workers_alive
from portal.runtime.logfiles import LogFile
from portal.runtime.process import SUPERVISED, dying_with, kill_group, stop_group, wait_until

START_SECONDS = 120.0


@contextlib.contextmanager
def ensure_workers(queues: Iterable[str]) -> Iterator[list[str]]:
    """While this is open, every one of `queues` has a worker. Yields the queues that needed a temporary one.

    Where no portal runs, a worker is started for the queues without one, and stopped at the end; it ends with this
    process even if that is killed. Raises RuntimeProblem if the broker is away or the worker does not start.
    """
    missing = _without_worker(list(queues))
    if not missing:
        yield missing
        return
    data = DataFolder(settings.DATA)
    data.create()
    log = LogFile(data.logs / "worker-temporary.log")
    made = commands.worker(f"temporary-{os.getpid()}", missing, concurrency=1)
    process = subprocess.Popen(
        made.command,
        cwd=REPOSITORY,
        env={**os.environ, **settings_environment(), SUPERVISED: "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=dying_with(os.getpid(), signal.SIGKILL),
    )
    assert process.stdout is not None
    log.follow(process.stdout)
    try:
        wait_until(lambda: process.poll() is not None or not _without_worker(missing), START_SECONDS, step=0.2)
        if process.poll() is not None or _without_worker(missing):
            raise RuntimeProblem(
                f"No worker could be started for {', '.join(missing)}.", f"Its log says why: {log.path}"
            )
        yield missing
    finally:
        stop_group(process, made.stop_steps)
        kill_group(process.pid)


def _without_worker(queues: list[str]) -> list[str]:
    try:
        alive = workers_alive(queues)
    except redis.RedisError as error:
        raise RuntimeProblem("The broker does not answer.", "Look at /readyz and the log of Valkey.") from error
    return [queue for queue in queues if not alive[queue]]


def settings_environment() -> dict[str, str]:
    """The environment in which another process comes to the settings of this one."""
    database = connection.settings_dict
    user = quote(str(database["USER"]), safe="")
    password = f":{quote(str(database['PASSWORD']), safe='')}" if database["PASSWORD"] else ""
    port = f":{database['PORT']}" if database["PORT"] else ""
    host = quote(str(database["HOST"]), safe="")
    return {
        "DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"],
        "DATABASE_URL": f"postgres://{user}{password}@{host}{port}/{quote(str(database['NAME']), safe='')}",
        "CELERY_BROKER_URL": settings.CELERY_BROKER_URL,
        "SECRET_KEY": settings.SECRET_KEY,
        "DEID_KEY": settings.DEID_KEY,
        "DATA": str(settings.DATA),
        "MEDIA_ROOT": str(settings.MEDIA_ROOT),
    }
