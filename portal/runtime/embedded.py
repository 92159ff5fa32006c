"""The users' side of the embedded services: find a running one, start one where none runs, leave it when done."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from portal.runtime.data_folder import REPOSITORY, DataFolder
from portal.runtime.errors import RuntimeProblem
from portal.runtime.keeper import SERVICES, Place
from portal.runtime.logfiles import LogFile
from portal.runtime.process import wait_until

# Commands of Django and ours that touch neither the database nor the broker.
NEEDS_NO_SERVICE = {
    "", "help", "--help", "-h", "version", "--version", "check", "collectstatic", "findstatic", "diffsettings",
    "startapp", "startproject", "makemessages", "compilemessages", "spectacular", "install_viewer", "status",
}  # fmt: skip


class EmbeddedServices:
    """The embedded services that this process uses. A service whose variable is set in the environment is not ours.

    While it is open, `DATABASE_URL` and `CELERY_BROKER_URL` stand in the environment for this process and its children.
    """

    def __init__(self, data: DataFolder, *, durable: bool = True) -> None:
        self.data = data
        self.durable = durable
        self.names = [name for name, service in SERVICES.items() if not os.environ.get(service.variable)]
        self._places = {name: Place(data, name) for name in self.names}

    def open(self) -> None:
        """Use the running services, or start them. Raises RuntimeProblem with the reason if one does not start."""
        if not self.names:
            return
        self.data.create()
        starting = {}
        try:
            for name, place in self._places.items():
                place.users.acquire(shared=True)  # waits while the last keeper is still closing down
                place.start.acquire()
                if place.url() is None:
                    starting[name] = self._start_keeper(name)
            for name, keeper in starting.items():
                self._await_keeper(name, keeper)
            for name, place in self._places.items():
                os.environ[SERVICES[name].variable] = place.url() or ""
                place.start.release()
        except BaseException:
            for place in self._places.values():
                place.start.release()
                place.users.release()
            raise

    def close(self) -> None:
        """Leave the services; if nobody else uses them, wait until they have stopped."""
        for name, place in self._places.items():
            os.environ.pop(SERVICES[name].variable, None)
            place.users.release()
        for place in self._places.values():
            wait_until(lambda place=place: self._settled(place), 45)  # type: ignore[misc]

    def revive(self) -> bool:
        """Start the services again whose keeper was killed; True if an address changed by that."""
        changed = False
        for name, place in self._places.items():
            if place.keeper.held_by_somebody():
                continue
            with place.start:
                if not place.keeper.held_by_somebody():
                    self._await_keeper(name, self._start_keeper(name))
                variable, url = SERVICES[name].variable, place.url() or ""
                changed |= os.environ.get(variable) != url
                os.environ[variable] = url
        return changed

    def _settled(self, place: Place) -> bool:
        """The keeper has ended, or somebody else keeps it busy."""
        if not place.keeper.held_by_somebody():
            return True
        if not place.state.exists():
            return False  # closing down
        if place.users.acquire(wait=False):
            place.users.release()
            return False  # no user is left: the keeper is about to see that
        if place.users.acquire(shared=True, wait=False):
            place.users.release()
            return True  # shared with other users
        return False  # the keeper has it for itself: it is closing down

    def _start_keeper(self, name: str) -> subprocess.Popen[bytes]:
        # A keeper that was killed may hold its lock until its last thread has gone.
        wait_until(lambda: not self._places[name].keeper.held_by_somebody(), 10)
        LogFile(self.data.logs / "keeper.log").close()
        errors = open(self.data.logs / "keeper.log", "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "portal.runtime.keeper", name, str(self.data.root)]
        with errors:
            return subprocess.Popen(
                command if self.durable else [*command, "--not-durable"],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def _await_keeper(self, name: str, keeper: subprocess.Popen[bytes]) -> None:
        assert keeper.stdout is not None
        with keeper.stdout:
            answer = keeper.stdout.readline().decode().strip()
        if answer != "ready":
            keeper.wait()
            title = SERVICES[name].title
            raise RuntimeProblem(answer.removeprefix("error: ") or f"{title} did not start; see {self.data.logs}.")


def running_url(service: str) -> str | None:
    """The address of an embedded service that is running for DATA right now."""
    with contextlib.suppress(OSError):
        return Place(DataFolder(), service).url()
    return None


_opened: list[EmbeddedServices] = []


def opened() -> EmbeddedServices | None:
    """The services that `manage.py` opened for the command that is running."""
    return _opened[-1] if _opened else None


@contextlib.contextmanager
def services_for(arguments: list[str]) -> Iterator[None]:
    """What `manage.py ARGUMENTS` needs: the running services of DATA, or its own while it runs."""
    command = arguments[1] if len(arguments) > 1 else ""
    production = os.environ.get("DJANGO_SETTINGS_MODULE") == "portal.settings.prod"
    if production or command in NEEDS_NO_SERVICE or {"--help", "-h"} & set(arguments[2:]):
        yield
        return
    services = EmbeddedServices(DataFolder())
    services.open()
    _opened.append(services)
    try:
        yield
    finally:
        _opened.pop()
        services.close()
