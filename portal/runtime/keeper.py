"""The keeper of one embedded service: a small process that owns PostgreSQL or Valkey while anybody uses it.

`python -m portal.runtime.keeper postgres` starts the service, prints `ready` and keeps it running: a crash of the
service is followed by a restart on the same port. It stops the service and ends when the last user has released
`users.lock`, which the kernel does for users that were killed. If the keeper itself is killed, the kernel ends the
service (PR_SET_PDEATHSIG) and the next user starts a new keeper.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from portal.runtime.data_folder import DataFolder, read_json, write_private_json
from portal.runtime.errors import RuntimeProblem
from portal.runtime.locks import FileLock
from portal.runtime.logfiles import LogFile
from portal.runtime.postgres import Postgres
from portal.runtime.process import free_port, port_is_free, stop_group, wait_until
from portal.runtime.valkey import Valkey

SERVICES: dict[str, type[Postgres] | type[Valkey]] = {"postgres": Postgres, "valkey": Valkey}
RESTARTS = 5
RESTART_WINDOW_SECONDS = 120.0


class Place:
    """The files in DATA/run through which a keeper and the users of its service meet."""

    def __init__(self, data: DataFolder, service: str) -> None:
        folder = data.run / service
        self.users = FileLock(folder / "users.lock")
        self.start = FileLock(folder / "start.lock")
        self.keeper = FileLock(folder / "keeper.lock")
        self.state = folder / "service.json"
        self.port = folder / "port.json"

    def url(self) -> str | None:
        """The address of the running service, or None."""
        state = read_json(self.state)
        return state["url"] if state and self.keeper.held_by_somebody() else None


class Keeper:
    def __init__(self, service: Postgres | Valkey, place: Place, log: LogFile) -> None:
        self.service = service
        self.place = place
        self.log = log
        self.stopping = threading.Event()
        self.port = 0

    def run(self) -> None:
        """Start, report on standard output, stay until the last user has gone.

        Raises RuntimeProblem if the service does not start, or keeps crashing.
        """
        self.place.state.unlink(missing_ok=True)
        self.service.prepare()
        process = self._start()
        write_private_json(self.place.state, {"url": self.service.url(self.port), "keeper": os.getpid()})
        print("ready", flush=True)  # noqa: T201
        _silence_standard_output()
        threading.Thread(target=self._wait_for_last_user, daemon=True).start()
        try:
            self._watch(process)
        finally:
            self.place.state.unlink(missing_ok=True)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the service on the port of last time, so that clients find it again, or on another if that is taken."""
        self.port = read_json(self.place.port) or free_port()
        for _attempt in range(5):
            if not port_is_free(self.port):
                self.port = free_port()
            process = self.service.spawn(self.port)
            assert process.stdout is not None
            self.log.follow(process.stdout)
            deadline = time.monotonic() + self.service.start_seconds
            while process.poll() is None and time.monotonic() < deadline:
                if self.service.ready(self.port):
                    write_private_json(self.place.port, self.port)
                    return process
                time.sleep(0.05)
            if process.poll() is None:
                stop_group(process, self.service.stop_steps)
                break
            time.sleep(0.5)
        raise RuntimeProblem(
            f"{self.service.title} did not start.",
            f"Its log says why: {self.service.data.logs}/{self.service.name}.log",
        )

    def _wait_for_last_user(self) -> None:
        self.place.users.acquire()
        self.stopping.set()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        crashes: list[float] = []
        while not self.stopping.wait(0.25):
            if process.poll() is None:
                continue
            now = time.monotonic()
            crashes = [moment for moment in crashes if now - moment < RESTART_WINDOW_SECONDS] + [now]
            self.log.write(f"keeper: {self.service.title} ended with code {process.returncode}; starting it again")
            if len(crashes) > RESTARTS:
                raise RuntimeProblem(f"{self.service.title} crashed {RESTARTS} times within two minutes.")
            time.sleep(min(5.0, 0.25 * 2 ** (len(crashes) - 1)))
            self.service.prepare()
            process = self._start()
            write_private_json(self.place.state, {"url": self.service.url(self.port), "keeper": os.getpid()})
        self.place.state.unlink(missing_ok=True)
        stop_group(process, self.service.stop_steps)


def _silence_standard_output() -> None:
    """Let go of the starter's pipe, so that it does not wait for us."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def main(arguments: list[str]) -> int:
    name, root, durable = arguments[0], Path(arguments[1]), "--not-durable" not in arguments
    data = DataFolder(root)
    place = Place(data, name)
    # A look at the lock by somebody else holds it for a moment, so one refusal is no proof.
    if not wait_until(lambda: place.keeper.acquire(wait=False), 5):
        print("error: another keeper is running", flush=True)  # noqa: T201
        return 1
    log = LogFile(data.logs / f"{name}.log")
    keeper = Keeper(SERVICES[name](data, durable=durable), place, log)
    signal.signal(signal.SIGTERM, lambda *_: keeper.stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        keeper.run()
    except RuntimeProblem as problem:
        log.write(f"keeper: {problem}")
        print(f"error: {problem}", flush=True)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
