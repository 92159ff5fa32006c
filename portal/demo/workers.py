"""Workers for as long as a command waits, where the portal does not run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from inference.jobs.models import Job
from portal.runtime import commands
from portal.runtime.data_folder import REPOSITORY
from portal.runtime.liveness import workers_alive
from portal.runtime.process import dying_with, stop_group


@contextmanager
def workers(say: Callable[[str], object]) -> Iterator[None]:
    """Start a worker for every queue that has none, and stop it at the end."""
    try:
        alive = workers_alive(Job.Queue.values)
    except redis.RedisError:
        alive = dict.fromkeys(Job.Queue.values, 0)
    missing = [queue for queue in Job.Queue.values if not alive.get(queue)]
    general = [queue for queue in missing if queue in (Job.Queue.DEFAULT, Job.Queue.IO)]
    wanted = [commands.worker("general", general, concurrency=2)] if general else []
    wanted += [
        commands.worker(queue, [queue], concurrency=1)
        for queue in (Job.Queue.INFER.value, Job.Queue.TRAIN.value)
        if queue in missing
    ]
    if wanted:
        say("The portal does not run; workers are started for the time being.\n")
    started = [
        subprocess.Popen(
            process.command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), signal.SIGKILL),
        )
        for process in wanted
    ]
    try:
        yield
    finally:
        for child, process in zip(started, wanted, strict=True):
            stop_group(child, process.stop_steps)
