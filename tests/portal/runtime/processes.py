"""Real portals and commands for the tests of this room, each with a data folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from portal.runtime.data_folder import REPOSITORY
from portal.runtime.process import free_port
from portal.viewer import install as viewer
from tests.browser import VIEWER

MANAGE = [sys.executable, str(REPOSITORY / "manage.py")]
GIVEN = {
    *("DATABASE_URL", "CELERY_BROKER_URL", "SECRET_KEY", "MEDIA_ROOT", "DJANGO_SETTINGS_MODULE", "PORT", "HOST"),
    "DJANGO_ALLOW_ASYNC_UNSAFE",  # the browser tests of this process need it
}


def environment(data: Path, **more: str) -> dict[str, str]:
    """That of a shell in which nothing but DATA is set."""
    bare = {key: value for key, value in os.environ.items() if key not in GIVEN}
    return {**bare, "DATA": str(data), **more}


def manage(data: Path, *arguments: str, seconds: float = 90, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MANAGE, *arguments],
        env=environment(data, **more),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


class HeldCommand:
    """`manage.py shell` that runs a piece of code, shows its first line, and stays until it is told to end."""

    def __init__(self, data: Path, code: str) -> None:
        self.process = subprocess.Popen(
            [*MANAGE, "shell", "--no-imports", "-c", f"{code}; import sys; sys.stdout.flush(); sys.stdin.read()"],
            env=environment(data),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().strip()

    def end(self) -> int:
        self.process.communicate("", timeout=60)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def belongs(process: psutil.Process, data: Path) -> bool:
    """Whether a process is part of a portal: its environment says so, or it works in the data folder.

    Valkey overwrites its environment with its title.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("DATA") == str(data) or Path(process.cwd()).is_relative_to(data)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def members(data: Path) -> list[tuple[psutil.Process, str]]:
    """The processes of a portal with their command lines, the oldest first."""
    found = []
    for process in psutil.process_iter(["create_time"]):
        if belongs(process, data):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append((process, " ".join(process.cmdline())))
    return sorted(found, key=lambda entry: (entry[0].create_time(), entry[0].pid))


def survivors(data: Path) -> list[str]:
    return [f"{process.pid} {line[:120]}" for process, line in members(data)]


def eventually(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.1)


def put_viewer(data: Path) -> None:
    """The viewer that the test run has installed; where there is none, the start of the portal needs no real one."""
    data.mkdir(parents=True, exist_ok=True)
    if VIEWER.is_dir():
        (data / "viewer").symlink_to(VIEWER, target_is_directory=True)
    else:
        viewer.folder(data).mkdir(parents=True)
        (viewer.folder(data) / "index.html").write_text("<!doctype html>")


class Portal:
    """`manage.py up`, with its console."""

    def __init__(self, data: Path, port: int | None = None, **more: str) -> None:
        self.data = data
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self._more = more
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, seconds: float = 180) -> float:
        """Start and wait for the address; returns the seconds that took."""
        began = time.monotonic()
        self.lines = []
        self.process = subprocess.Popen(
            [*MANAGE, "up", *arguments],
            env=environment(self.data, PORT=str(self.port), **self._more),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Where the suite itself runs in the background, SIGINT is ignored, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        threading.Thread(target=self._read, daemon=True).start()
        if not eventually(lambda: self._ready() or self.process.poll() is not None, seconds) or not self._ready():
            raise AssertionError("The portal did not start:\n" + "\n".join(self.lines))
        return time.monotonic() - began

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _ready(self) -> bool:
        return any(line == f"Readroom is ready: {self.address}" for line in self.lines)

    @property
    def supervisor(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def find(self, *words: str) -> psutil.Process:
        """The process of this portal whose command line has all these words; the oldest of several."""
        found = [process for process, line in members(self.data) if all(word in line for word in words)]
        assert found, f"no process {words}: {survivors(self.data)}"
        return found[0]

    def checks(self) -> dict[str, str]:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=5).json()["checks"]
        except httpx.HTTPError:
            return {"web": "failed"}

    def healthy(self) -> bool:
        return set(self.checks().values()) == {"ok"}

    def stop(self, number: int = signal.SIGINT, seconds: float = 60) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)
