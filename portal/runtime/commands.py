"""The command lines of the portal's processes: the supervisor, docker-compose.yml and the tests run these."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

# A worker finishes or hands back its task after the first signal, and drops it at the second.
WORKER_STOP = [(signal.SIGTERM, 10.0), (signal.SIGQUIT, 5.0)]
WEB_STOP = [(signal.SIGTERM, 8.0)]


@dataclass(frozen=True)
class Process:
    """A long-running process of the portal."""

    name: str
    command: list[str]
    stop_steps: list[tuple[int, float]]


def web(host: str, port: int, *, workers: int, threads: int = 8, python: str = sys.executable) -> Process:
    command = [python, "-m", "granian", "--interface", "wsgi", "--host", host, "--port", str(port)]
    command += ["--workers", str(workers), "--blocking-threads", str(threads), "--respawn-failed-workers"]
    command += ["--log-level", "warning", "portal.wsgi:application"]
    return Process("web", command, WEB_STOP)


def worker(name: str, queues: list[str], *, concurrency: int, python: str = sys.executable) -> Process:
    """A Celery worker. Training starts each task in a fresh process, which gives back all memory of the last one."""
    command = [python, "-m", "celery", "--quiet", "-A", "portal", "worker", "--hostname", f"{name}@%h"]
    command += ["--queues", ",".join(queues), "--concurrency", str(concurrency), "--prefetch-multiplier", "1"]
    command += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    if queues == ["train"]:
        command += ["--max-tasks-per-child", "1"]
    return Process(f"worker-{name}", command, WORKER_STOP)


def beat(schedule: Path | str, *, python: str = sys.executable) -> Process:
    command = [python, "-m", "celery", "--quiet", "-A", "portal", "beat", "--schedule", str(schedule), "--pidfile", ""]
    return Process("beat", [*command, "--loglevel", "WARNING"], [(signal.SIGTERM, 5.0)])


def one_machine(host: str, port: int, run_folder: Path) -> list[Process]:
    """Everything that `manage.py up` starts besides PostgreSQL and Valkey."""
    cores = len(os.sched_getaffinity(0))
    return [
        web(host, port, workers=max(2, min(4, cores // 2))),
        worker("general", ["default", "io"], concurrency=max(2, min(4, cores))),
        worker("infer", ["infer"], concurrency=1),
        worker("train", ["train"], concurrency=1),
        beat(run_folder / "beat-schedule"),
    ]
