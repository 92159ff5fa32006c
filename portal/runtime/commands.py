"""The command lines of the portal's processes: the supervisor, docker-compose.yml and the tests run these."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from portal.runtime.process import Steps

# A worker finishes or hands back its task after the first signal, and drops it at the second.
WORKER_STOP = [(signal.SIGTERM, 10.0), (signal.SIGQUIT, 5.0)]
WEB_STOP = [(signal.SIGTERM, 8.0)]


@dataclass(frozen=True)
class Process:
    """A long-running process of the portal. `arguments` follow the Python interpreter."""

    name: str
    arguments: list[str]
    stop_steps: Steps

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.arguments]


def web(host: str, port: int, *, workers: int, threads: int = 6) -> Process:
    arguments = ["-m", "granian", "--interface", "wsgi", "--host", host, "--port", str(port)]
    arguments += ["--workers", str(workers), "--blocking-threads", str(threads), "--respawn-failed-workers"]
    arguments += ["--log-level", "error", "portal.wsgi:application"]
    return Process("web", arguments, WEB_STOP)


def worker(name: str, queues: list[str], *, concurrency: int) -> Process:
    """A Celery worker. Training starts each task in a fresh process, which gives back all memory of the last one."""
    arguments = [*_CELERY, "worker", "--hostname", f"{name}@%h", "--queues", ",".join(queues)]
    arguments += ["--concurrency", str(concurrency), "--prefetch-multiplier", "1"]
    arguments += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    if queues == ["train"]:
        arguments += ["--max-tasks-per-child", "1"]
    return Process(f"worker-{name}", arguments, WORKER_STOP)


def beat(schedule: Path | str) -> Process:
    arguments = [*_CELERY, "beat", "--schedule", str(schedule), "--pidfile", "", "--loglevel", "WARNING"]
    return Process("beat", arguments, [(signal.SIGTERM, 5.0)])


def dimse() -> Process:
    """The DICOM listener; ports and AE title come from the settings."""
    return Process("dimse", ["manage.py", "dimse"], [(signal.SIGTERM, 8.0)])


# The checks of Django load every page; the tests have made them.
_CELERY = ["-m", "celery", "--quiet", "--skip-checks", "-A", "portal"]


def one_machine(host: str, port: int, run_folder: Path, *, listens: bool = False) -> list[Process]:
    """Everything that `manage.py up` starts besides PostgreSQL and Valkey; with `listens` the DICOM listener, too."""
    cores = len(os.sched_getaffinity(0))
    return [
        web(host, port, workers=max(2, min(4, cores // 2))),
        worker("general", ["default", "io"], concurrency=max(2, min(4, cores))),
        worker("infer", ["infer"], concurrency=1),
        worker("train", ["train"], concurrency=1),
        beat(run_folder / "beat-schedule"),
        *([dimse()] if listens else []),
    ]
