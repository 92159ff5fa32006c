"""`manage.py up`: starts the portal's processes, starts again what crashes, and leaves nothing behind.

Every child leads a process group of its own and gets SIGKILL from the kernel when the supervisor ends, however it
ends. The supervisor adopts grandchildren whose parent was killed and ends them. A child that crashes is started again
after one second, then two, four … up to half a minute; the embedded services likewise, by their keepers.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from portal.runtime.commands import Process
from portal.runtime.data_folder import REPOSITORY, DataFolder
from portal.runtime.embedded import EmbeddedServices
from portal.runtime.errors import RuntimeProblem
from portal.runtime.logfiles import LogFile
from portal.runtime.process import SUPERVISED, adopt_orphans, dying_with, kill_group, reap, stop_group

Say = Callable[[str], None]
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
REPEAT_SECONDS = 300.0  # the console shows the same error once in this time; the log file has all of them
STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Child:
    """One supervised process and its log file."""

    def __init__(self, process: Process, data: DataFolder, say: Say) -> None:
        self.process = process
        self.log = LogFile(data.logs / f"{process.name}.log")
        self.say = say
        self.running: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.due = 0.0
        self.crashes = 0
        self._told: dict[str, float] = {}

    def start(self) -> None:
        self.started = time.monotonic()
        self.running = subprocess.Popen(
            self.process.command,
            cwd=REPOSITORY,
            env={**os.environ, SUPERVISED: "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), signal.SIGKILL),
        )
        assert self.running.stdout is not None
        threading.Thread(target=self._keep_log, args=[self.running.stdout], daemon=True).start()

    def look_after(self) -> None:
        """Start it again if it ended, when its pause is over."""
        now = time.monotonic()
        if self.running is not None and self.running.poll() is not None:
            group, code = self.running.pid, self.running.returncode
            self._clear(group)
            self.running = None
            self.crashes = 1 if now - self.started > STEADY_SECONDS else self.crashes + 1
            pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** (self.crashes - 1))
            self.due = now + pause
            self.log.write(json.dumps({"level": "ERROR", "message": f"ended with code {code}"}))
            self.say(f"{self.process.name} ended with code {code}; it starts again in {pause:.0f} s ({self.log.path}).")
        if self.running is None and now >= self.due:
            self.start()

    def stop(self) -> None:
        if self.running is not None:
            stop_group(self.running, self.process.stop_steps)
            self._clear(self.running.pid)
            self.running = None

    def _clear(self, group: int) -> None:
        """End what the child left behind in its group."""
        kill_group(group)
        time.sleep(0.05)
        reap(group)

    def _is_news(self, brief: str) -> bool:
        now = time.monotonic()
        known = now - self._told.get(brief, -REPEAT_SECONDS) < REPEAT_SECONDS
        if not known:
            self._told = {text: at for text, at in self._told.items() if now - at < REPEAT_SECONDS} | {brief: now}
        return not known

    def _keep_log(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                self.log.write(line)
                brief = _brief(line)
                if brief and self._is_news(brief):
                    self.say(f"{self.process.name}: {brief}")


def _brief(line: str) -> str | None:
    """What of a log line belongs on the console: errors, in short."""
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("level") not in {"ERROR", "CRITICAL"}:
        return None
    return " ".join(str(record[key]) for key in ("level", "message", "error") if record.get(key))


class Supervisor:
    def __init__(
        self,
        processes: list[Process],
        data: DataFolder,
        services: EmbeddedServices | None,
        address: str,
        say: Say,
        *,
        elsewhere: Iterable[str] = (),
    ) -> None:
        """elsewhere: checks of `/readyz` that other machines fulfil, for which the start does not wait."""
        self.elsewhere = frozenset(elsewhere)
        self.children = [Child(process, data, say) for process in processes]
        self.services = services
        self.address = address
        self.say = say
        self.stopping = threading.Event()

    def run(self, when_ready: Callable[[], None]) -> None:
        """Run until a stop signal. Raises RuntimeProblem if PostgreSQL or Valkey cannot be kept running."""
        adopt_orphans()
        self._catch_signals()
        try:
            for child in self.children:
                child.start()
            threading.Thread(target=self._announce, args=[when_ready], daemon=True).start()
            while not self.stopping.wait(0.5):
                if self.services is not None and self.services.revive():
                    self.say("PostgreSQL or Valkey came back at another address; everything starts again.")
                    self._stop_children()
                for child in self.children:
                    child.look_after()
        finally:
            self.stopping.set()
            self._stop_children()

    def _stop_children(self) -> None:
        """All at once: each waits for its own."""
        threads = [threading.Thread(target=child.stop) for child in self.children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _catch_signals(self) -> None:
        def handle(number: int, frame: object) -> None:
            if self.stopping.is_set():
                for child in self.children:  # the second time: at once
                    if child.running is not None:
                        kill_group(child.running.pid)
            self.stopping.set()

        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, handle)

    def _announce(self, when_ready: Callable[[], None]) -> None:
        """Wait until the portal says that it is ready; say what is missing if that takes long."""
        complaint = time.monotonic() + 60
        while not self.stopping.wait(0.2):
            missing = self._missing()
            if not set(missing) - self.elsewhere:
                for name in missing:
                    self.say(f"No {name} yet: none is started here, jobs of its queue wait for another machine.")
                when_ready()
                return
            if time.monotonic() > complaint:
                self.say(f"Not ready yet: {', '.join(missing)}. The logs say more.")
                complaint = time.monotonic() + 60

    def _missing(self) -> list[str]:
        try:
            with urllib.request.urlopen(f"{self.address}/readyz", timeout=5):  # noqa: S310
                return []
        except urllib.error.HTTPError as error:
            try:
                checks = json.load(error)["checks"]
            except (ValueError, KeyError):
                return [f"the web server answers {error.code}"]
            return [name for name, state in checks.items() if state != "ok"]
        except OSError:
            return ["the web server"]


def claim(data: DataFolder) -> Path:
    """Where a running portal says where it is; see `Portal`."""
    return data.run / "portal.json"


def already_running(data: DataFolder, state: dict[str, Any] | None) -> RuntimeProblem:
    where = f" at {state['address']} (process {state['pid']})" if state else ""
    return RuntimeProblem(
        f"The portal of {data.root} is already running{where}.",
        "Stop it there (Ctrl-C, or SIGTERM to that process), or give DATA and PORT of another portal.",
    )
