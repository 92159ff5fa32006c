import contextlib
import os
import signal
import socket
from argparse import ArgumentParser
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.runtime import commands, first_run, liveness
from portal.runtime.data_folder import DataFolder, read_json, write_private_json
from portal.runtime.embedded import opened
from portal.runtime.errors import RuntimeProblem
from portal.runtime.locks import FileLock
from portal.runtime.process import die_with_parent, port_is_free
from portal.runtime.supervisor import Supervisor, already_running, claim


class Command(BaseCommand):
    help = "Starts the portal with everything it needs and stays until Ctrl-C or SIGTERM."
    requires_system_checks = []
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--workers",
            default="",
            metavar="infer=1,train=1",
            help="jobs at a time for each worker; 0 starts none here",
        )
        parser.add_argument("--with-parent", action="store_true", help="stop when the process that started it ends")

    def handle(self, *, with_parent: bool, workers: str, **options: Any) -> None:
        if with_parent:
            die_with_parent(signal.SIGTERM)
        data = DataFolder()
        try:
            data.create()
            lock = FileLock(data.run / "portal.lock")
            if not lock.acquire(wait=False):
                raise already_running(data, read_json(claim(data)))
            with lock:
                self._run(data, commands.worker_sizes(workers))
        except RuntimeProblem as problem:
            raise CommandError(str(problem)) from None

    def _run(self, data: DataFolder, sizes: dict[str, int]) -> None:
        host, port = settings.HOST, settings.PORT  # type: ignore[misc]
        if not port_is_free(port, host):
            raise RuntimeProblem(f"Port {port} of {host} is taken by another program.", "Give another one: PORT=8001.")
        listening = [number for number in (settings.DIMSE_PORT, settings.DIMSE_TLS_PORT) if number]
        for number in listening:
            if not port_is_free(number, settings.DIMSE_HOST):
                raise RuntimeProblem(
                    f"Port {number} of {settings.DIMSE_HOST}, for DICOM, is taken by another program.",
                    "Give another one: DIMSE_PORT=11113.",
                )
        address = f"http://{_name(host)}:{port}"
        password = first_run.prepare(data, self._say)
        supervisor = Supervisor(
            commands.one_machine(host, port, data.run, listens=bool(listening), sizes=sizes),
            data,
            opened(),
            f"http://{_reach(host)}:{port}",
            self._say,
            elsewhere=[
                f"worker {queue}" for name, queues in commands.WORKERS.items() if not sizes[name] for queue in queues
            ],
        )
        with contextlib.suppress(redis.RedisError):  # a broker elsewhere that is away; `/readyz` says so
            liveness.forget(socket.gethostname())
        write_private_json(claim(data), {"address": address, "pid": os.getpid()})

        def ready() -> None:
            if password is not None:
                self._say(f"User {first_run.ADMINISTRATOR}, password {password} (kept in {data.admin_password})")
            for number in listening:
                self._say(f"DICOM listener: {settings.DIMSE_AE_TITLE} at {settings.DIMSE_HOST}:{number}")
            self._say(f"Readroom is ready: {address}")

        try:
            supervisor.run(ready)
            self._say("Readroom has stopped")
        finally:
            claim(data).unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _reach(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _name(host: str) -> str:
    """The host that people type; with every address open, the machine's name."""
    return socket.gethostname() if host in {"0.0.0.0", "::"} else _reach(host)  # noqa: S104
