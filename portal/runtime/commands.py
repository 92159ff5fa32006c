"""The command lines of the portal's processes: the supervisor, docker-compose.yml and the tests run these."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from portal.runtime.errors import RuntimeProblem
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


WORKERS = {"general": ["default", "io"], "infer": ["infer"], "train": ["train"]}


def worker_sizes(text: str) -> dict[str, int]:
    """Worker → how many jobs it runs at a time, from `infer=2,train=0`; what is not named keeps its default.

    Raises RuntimeProblem.
    """
    sizes = {"general": max(2, min(4, len(os.sched_getaffinity(0)))), "infer": 1, "train": 1}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, _, number = part.partition("=")
        if name not in sizes or not number.isdigit() or int(number) > 64:
            raise RuntimeProblem(
                f"“{part}” is no number of workers.",
                f"Write for example infer=2,train=1. There are: {', '.join(sizes)}; 0 starts none on this machine.",
            )
        sizes[name] = int(number)
    return sizes


def one_machine(
    host: str, port: int, run_folder: Path, *, listens: bool = False, sizes: dict[str, int] | None = None
) -> list[Process]:
    """Everything that `manage.py up` starts besides PostgreSQL and Valkey; with `listens` the DICOM listener, too.

    sizes: jobs at a time for each worker, see `worker_sizes`.
    """
    cores = len(os.sched_getaffinity(0))
    sizes = worker_sizes("") if sizes is None else sizes
    return [
        web(host, port, workers=max(2, min(4, cores // 2))),
        *(worker(name, queues, concurrency=sizes[name]) for name, queues in WORKERS.items() if sizes[name]),
        beat(run_folder / "beat-schedule"),
        *([dimse()] if listens else []),
    ]
