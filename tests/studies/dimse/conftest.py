"""Our listener as a process of its own, and dcmtk as the other side."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from studies.dimse import nodes
from studies.dimse.models import RemoteNode
from tests import dcmtk as tools
from tests.factories import ProjectFactory, ct_datasets, part10_bytes
from tests.worker import ROOT, _environment

SERVICES = list(RemoteNode.Service.values)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"Nothing listens on {port}:\n{log.read_text(errors='replace')[-3000:]}")


class Started:
    """Processes that end with the test."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, command: list[str], log: Path, port: int, **options) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options)
        self.processes.append(process)
        await_port(port, process, log)
        return process

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@pytest.fixture
def start() -> Iterator[Started]:
    started = Started()
    yield started
    started.stop()


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a tool of dcmtk: `dcmtk("echoscu", "-aec", …)`."""
    if not tools.found():
        pytest.skip("dcmtk is not installed (apt-get install dcmtk)")

    def run(tool: str, *arguments: object, timeout: float = 60, **options) -> subprocess.CompletedProcess[str]:
        command = [tools.path_of(tool), *(str(word) for word in arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace", **options)

    return run


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


@pytest.fixture
def node(project) -> RemoteNode:
    """A caller from this machine that may use every service; `port` is where it would listen."""
    return nodes.create(
        project,
        None,
        name="Workstation",
        ae_title="DCMTK",
        host="127.0.0.1",
        port=free_port(),
        addresses=["127.0.0.1"],
        services=SERVICES,
    )


class Listener:
    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.port, self.log, self.process = port, log, process

    @property
    def address(self) -> list[object]:
        """Arguments of dcmtk: who calls whom, and where."""
        return ["-aet", "DCMTK", "-aec", "READROOM", "127.0.0.1", self.port]


@pytest.fixture
def listen(start, transactional_db, tmp_path) -> Callable[..., Listener]:
    """`manage.py dimse` on a port of its own."""

    def made(port: int = 0, **environment: str) -> Listener:
        port = port or free_port()
        log = tmp_path / f"dimse-{port}.log"
        variables = {"DIMSE_PORT": str(port), "MEDIA_ROOT": str(settings.MEDIA_ROOT), "DATA": str(settings.DATA)}
        env = _environment(**(variables | environment))
        waited = int(environment.get("DIMSE_TLS_PORT", port))
        process = start([sys.executable, "manage.py", "dimse"], log, waited, cwd=ROOT, env=env)
        return Listener(port, log, process)

    return made


@pytest.fixture
def listener(listen) -> Listener:
    return listen()


@pytest.fixture
def files(tmp_path) -> Callable[..., list[Path]]:
    """The slices of a CT series as files; `overrides` as for `ct_slice`."""

    def made(n: int = 3, folder: str = "out", **overrides) -> list[Path]:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        paths = []
        for dataset in ct_datasets(n, **overrides):
            path = place / f"{dataset.SOPInstanceUID}.dcm"
            path.write_bytes(part10_bytes(dataset))
            paths.append(path)
        return paths

    return made


class Pacs:
    """dcmqrscp with a folder of its own; `move_port` is where it sends what READROOM asks for."""

    def __init__(self, start, folder: Path, move_port: int, *options: str) -> None:
        self.port = free_port()
        self.folder = folder / "database"
        self.folder.mkdir(parents=True)
        config = folder / "dcmqrscp.cfg"
        config.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\nreadroom = (READROOM, 127.0.0.1, {move_port})\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nPACS {self.folder} RW (200, 1024mb) ANY\nAETable END\n"
        )
        self.process = start(
            [tools.path_of("dcmqrscp"), *options, "-c", str(config)], folder / "dcmqrscp.log", self.port
        )

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.name != "index.dat"]


@pytest.fixture
def pacs(start, dcmtk, tmp_path, listener_port) -> Pacs:
    return Pacs(start, tmp_path / "pacs", listener_port)


@pytest.fixture
def listener_port() -> int:
    return free_port()


@pytest.fixture
def pacs_node(project, pacs) -> RemoteNode:
    return nodes.create(
        project, None, name="PACS", ae_title="PACS", host="127.0.0.1", port=pacs.port,
        addresses=["127.0.0.1"], services=["store"],
    )  # fmt: skip


@pytest.fixture
def filled(dcmtk, pacs, files) -> list[Path]:
    """Four slices of one study in the PACS."""
    paths = files(4, PatientID="R1", PatientName="Remote^Rita", StudyDate="20230102")
    done = dcmtk("storescu", "-aec", "PACS", "127.0.0.1", pacs.port, *paths)
    assert done.returncode == 0, done.stderr
    return paths


@pytest.fixture(autouse=True)
def _short_waits(settings, tmp_path) -> None:
    settings.DIMSE_TIMEOUT_SECONDS = 4.0
    settings.MEDIA_ROOT = tmp_path / "media"
    os.makedirs(settings.MEDIA_ROOT, exist_ok=True)
