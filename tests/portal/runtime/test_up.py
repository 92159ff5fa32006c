"""The whole portal, started as an administrator starts it, in a folder with a long path and a space in it."""

from __future__ import annotations

import contextlib
import re
import signal
import stat
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import redis

from portal.runtime.process import free_port
from tests.portal.runtime.processes import Portal, belongs, eventually, manage, members, put_viewer, survivors


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("up") / ("a folder with spaces and a very long name " * 3).strip() / "data"
    assert len(str(data)) > 107  # the longest path of a socket
    put_viewer(data)
    portal = Portal(data, DIMSE_PORT=str(free_port()))
    try:
        portal.start()
        yield portal
    finally:  # also where it did not start
        if portal.process is not None and portal.process.poll() is None:
            portal.stop(signal.SIGTERM)
        assert eventually(lambda: not survivors(data), 30), survivors(data)


def test_says_the_address_once_and_the_password_once(portal: Portal) -> None:
    assert sum(portal.address in line for line in portal.lines) == 1
    password = (portal.data / "admin-password").read_text().strip()
    assert sum(password in line for line in portal.lines) == 1
    assert stat.S_IMODE((portal.data / "admin-password").stat().st_mode) == 0o600


def test_the_printed_password_opens_the_portal(portal: Portal) -> None:
    password = (portal.data / "admin-password").read_text().strip()
    with httpx.Client(base_url=portal.address, follow_redirects=False) as browser:
        form = browser.get("/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
        assert token
        fields = {"csrfmiddlewaretoken": token[1], "username": "admin"}
        wrong = browser.post("/login/", data={**fields, "password": "not the password"})
        assert wrong.status_code == 200
        right = browser.post("/login/", data={**fields, "password": password})
        assert right.status_code == 302
        assert browser.get("/").status_code == 200


def test_health_names_every_part_without_login(portal: Portal) -> None:
    assert httpx.get(f"{portal.address}/healthz").json() == {"alive": True}
    answer = httpx.get(f"{portal.address}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": {
            "database": "ok",
            "broker": "ok",
            "worker default": "ok",
            "worker io": "ok",
            "worker infer": "ok",
            "worker train": "ok",
            "DICOM listener": "ok",
        },
    }


def test_the_dicom_listener_says_where_it_is_and_comes_back(portal: Portal) -> None:
    def listening() -> list[tuple[str, int]]:
        found = []
        for process, line in members(portal.data):
            if line.endswith("manage.py dimse"):
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended after it was listed
                    found += [c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN"]
        return found

    ((address, port),) = listening()
    assert address == "127.0.0.1"
    assert sum(f"READROOM at 127.0.0.1:{port}" in line for line in portal.lines) == 1
    next(process for process, line in members(portal.data) if line.endswith("manage.py dimse")).kill()
    assert eventually(lambda: not listening(), 5)
    assert eventually(listening, 60) == [(address, port)]


def test_static_files_are_kept_for_ever_under_hashed_names(portal: Portal) -> None:
    page = httpx.get(f"{portal.address}/login/").text
    style = re.search(r'href="(/static/css/tokens\.[0-9a-f]{12}\.css)"', page)
    assert style, page[:2000]
    answer = httpx.get(portal.address + style[1])
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]


def test_only_this_machine_reaches_it_and_services_want_a_password(portal: Portal) -> None:
    for word in ("granian", "postgres -D", "valkey-server"):
        listening = [
            connection.laddr.ip
            for process, line in members(portal.data)
            for connection in process.net_connections("tcp")
            if word in line and connection.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}, word
    port = int((portal.data / "run/postgres/port.json").read_text())
    for user in ("postgres", "readroom"):
        with pytest.raises(psycopg.OperationalError, match=r"no password supplied|password authentication failed"):
            psycopg.connect(f"host=127.0.0.1 port={port} user={user} dbname=readroom", connect_timeout=5)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=int((portal.data / "run/valkey/port.json").read_text())).ping()


def test_no_password_stands_in_a_command_line(portal: Portal) -> None:
    secrets = [path.read_text().strip() for path in (portal.data / "postgres-passwords").iterdir()]
    secrets += [(portal.data / name).read_text().strip() for name in ("valkey-password", "secret_key")]
    lines = survivors(portal.data)
    assert len(lines) > 8
    assert not [line for line in lines for secret in secrets if secret in line]


def test_what_lies_in_the_data_folder_is_closed(portal: Portal) -> None:
    for path in portal.data.iterdir():
        if path.name not in {"static", "viewer"}:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_second_start_says_where_it_runs(portal: Portal) -> None:
    second = manage(portal.data, "up", PORT=str(free_port()))
    assert second.returncode == 1
    assert f"already running at {portal.address}" in second.stderr
    assert portal.healthy()


def test_a_taken_port_is_said_in_words(portal: Portal, tmp_path: Path) -> None:
    second = manage(tmp_path / "other", "up", PORT=str(portal.port))
    assert second.returncode == 1
    assert f"Port {portal.port} of 127.0.0.1 is taken" in second.stderr
    assert "Traceback" not in second.stderr
    assert not survivors(tmp_path / "other")


def test_a_command_beside_it_uses_its_services_and_leaves_them_running(portal: Portal) -> None:
    before = portal.find("postgres", "-D").pid
    code = "from portal.accounts.models import User; print(User.objects.get(is_superuser=True).username)"
    answer = manage(portal.data, "shell", "--no-imports", "-c", code)
    assert answer.stdout.strip() == "admin", answer.stderr
    assert portal.find("postgres", "-D").pid == before
    assert portal.healthy()


@pytest.mark.parametrize(
    "words",
    [
        ["granian"],
        ["celery", "worker", "train@"],
        ["beat"],
        ["valkey-server"],
        ["postgres", "-D"],
        ["portal.runtime.keeper", "postgres"],
        ["portal.runtime.keeper", "valkey"],
    ],
    ids=lambda words: "-".join(words).strip("@-").replace("portal.runtime.", ""),
)
def test_what_is_killed_comes_back(portal: Portal, words: list[str]) -> None:
    victim = portal.find(*words)
    below = victim.children(recursive=True)
    victim.kill()

    def replaced() -> bool:
        try:
            return portal.find(*words).pid != victim.pid and portal.healthy()
        except AssertionError:
            return False

    assert eventually(replaced, 60), survivors(portal.data)
    still = [process for process in below if belongs(process, portal.data)]
    assert not still, "what was below it lives on"


def test_a_request_leaves_one_line_without_its_query(portal: Portal) -> None:
    httpx.get(f"{portal.address}/login/", params={"PatientName": "Doe^Jane"}, headers={"X-Request-ID": "probe-0001"})
    log = portal.data / "logs" / "web.log"
    assert eventually(lambda: "probe-0001" in log.read_text(), 5)
    lines = [line for line in log.read_text().splitlines() if "probe-0001" in line]
    assert len(lines) == 1
    assert '"path": "/login/"' in lines[0]
    assert '"status": 200' in lines[0]
    assert "Doe" not in log.read_text()


def test_ctrl_c_stops_everything_and_the_next_start_is_quick(portal: Portal) -> None:
    assert portal.stop(signal.SIGINT) == 0
    assert not survivors(portal.data)
    assert not (portal.data / "run" / "portal.json").exists()
    started = portal.start()
    assert not any("password" in line for line in portal.lines)
    spent = sum(sum(process.cpu_times()[:4]) for process, _ in members(portal.data))  # with ended children
    print(f"started in {started:.1f} s with {spent:.1f} s of CPU time")
    assert spent < 30, "15 s of two cores; what else the machine does adds little to CPU time"


def test_kill_9_of_the_supervisor_leaves_no_orphan_and_the_next_start_works(portal: Portal) -> None:
    supervisor = portal.supervisor
    supervisor.kill()
    assert eventually(lambda: not survivors(portal.data), 30), survivors(portal.data)
    portal.start()
    assert portal.healthy()


def test_a_start_does_not_wait_for_workers_of_other_machines(portal: Portal) -> None:
    assert portal.stop(signal.SIGTERM) == 0
    portal.start("--workers", "train=0")
    assert any("No worker train yet" in line for line in portal.lines)
    assert httpx.get(f"{portal.address}/readyz").json()["checks"]["worker train"] == "failed"


def test_sigterm_stops_everything(portal: Portal) -> None:
    assert portal.stop(signal.SIGTERM) == 0
    assert not survivors(portal.data)
