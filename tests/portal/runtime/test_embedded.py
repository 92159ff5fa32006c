"""Commands that bring their own PostgreSQL and Valkey, alone and beside each other."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from portal.runtime.data_folder import REPOSITORY, DataFolder
from portal.runtime.embedded import EmbeddedServices
from portal.runtime.keeper import Place
from tests.portal.runtime.processes import MANAGE, HeldCommand, environment, eventually, manage, survivors

COUNT = "from django.db import connection; c = connection.cursor(); c.execute('SELECT 6 * 7'); print(c.fetchone()[0])"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cluster is made once."""
    folder = tmp_path_factory.mktemp("embedded") / "data"
    first = manage(folder, "shell", "--no-imports", "-c", COUNT)
    assert first.stdout.strip() == "42", first.stderr
    return folder


def test_a_command_stops_what_it_started(data: Path) -> None:
    assert survivors(data) == []
    assert manage(data, "shell", "--no-imports", "-c", COUNT).stdout.strip() == "42"
    assert survivors(data) == []


def test_the_last_of_two_commands_stops_the_services(data: Path) -> None:
    first, second = HeldCommand(data, COUNT), HeldCommand(data, COUNT)
    assert (first.first_line, second.first_line) == ("42", "42")
    servers = [line for line in survivors(data) if "postgres -D" in line]
    assert len(servers) == 1
    assert first.end() == 0
    assert [line for line in survivors(data) if "postgres -D" in line] == servers
    assert second.end() == 0
    assert survivors(data) == []


def test_a_killed_command_leaves_nothing(data: Path) -> None:
    command = HeldCommand(data, COUNT)
    assert command.first_line == "42"
    command.kill()
    assert eventually(lambda: not survivors(data), 30), survivors(data)
    assert manage(data, "shell", "--no-imports", "-c", COUNT).stdout.strip() == "42"


def test_a_stale_process_number_of_another_program_does_not_hinder(data: Path) -> None:
    # After a restart of a container the number in postmaster.pid may be that of any other process.
    lock = data / "postgres" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{data / 'postgres'}\n1700000000\n29999\n\n127.0.0.1\n  1234  1234\nready\n")
    assert manage(data, "shell", "--no-imports", "-c", COUNT).stdout.strip() == "42"


def test_data_of_a_killed_server_are_there_after_the_next_start(data: Path) -> None:
    connect = "from django.db import connection; c = connection.cursor(); "
    make = "c.execute('CREATE TABLE kept (n int)'); c.execute('INSERT INTO kept VALUES (7)'); print('made')"
    command = HeldCommand(data, connect + make)
    assert command.first_line == "made"
    running = {line.partition(" ")[2]: psutil.Process(int(line.split()[0])) for line in survivors(data)}
    keeper = next(process for line, process in running.items() if "keeper postgres" in line)
    server = next(process for line, process in running.items() if "postgres -D" in line)
    keeper.suspend()  # so that it cannot start the server again
    server.kill()
    keeper.kill()
    command.kill()
    assert eventually(lambda: not survivors(data), 30), survivors(data)
    look = "c.execute('SELECT n FROM kept'); print(c.fetchone()[0])"
    answer = manage(data, "shell", "--no-imports", "-c", connect + look)
    assert answer.stdout.strip() == "7", answer.stderr


def test_a_given_database_replaces_the_embedded_one(tmp_path: Path) -> None:
    url = os.environ["DATABASE_URL"]
    answer = manage(tmp_path / "data", "shell", "--no-imports", "-c", COUNT, DATABASE_URL=url)
    assert answer.stdout.strip() == "42", answer.stderr
    assert not (tmp_path / "data" / "postgres").exists()
    assert (tmp_path / "data" / "valkey").exists()


def test_commands_that_need_no_service_start_none(tmp_path: Path) -> None:
    assert manage(tmp_path / "data", "check").returncode == 0
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can pass through folders that are closed to others")
def test_root_may_keep_the_data_below_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    answer = manage(closed / "data", "shell", "--no-imports", "-c", COUNT)
    assert answer.stdout.strip() == "42", answer.stderr
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert (closed / "data" / "postgres").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user(tmp_path: Path) -> None:
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", "import django"], cwd="/", check=True, **nobody)  # type: ignore[call-overload]
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("the Python of this environment lies in a folder that is closed to other users")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    answer = subprocess.run(
        [*MANAGE, "shell", "--no-imports", "-c", COUNT],
        env=environment(data, HOME=str(data)),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        **nobody,  # type: ignore[call-overload]
    )
    assert answer.stdout.strip() == "42", answer.stderr
    assert survivors(data) == []
    # Root would leave files that the user cannot open any more.
    refused = manage(data, "shell", "--no-imports", "-c", COUNT)
    assert refused.returncode == 1
    assert "belongs to the user nobody" in refused.stderr


def test_a_file_in_the_place_of_the_folder_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    answer = manage(tmp_path / "data", "shell", "-c", COUNT)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"Error: The data folder {tmp_path / 'data'} cannot be written")
    assert "Traceback" not in answer.stderr


def test_services_that_are_not_running_have_no_address(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    data.create()
    assert Place(data, "postgres").url() is None


def test_open_and_close_set_and_clear_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    services = EmbeddedServices(DataFolder(tmp_path / "data"), durable=False)
    services.open()
    try:
        assert services.names == ["postgres"]
        assert os.environ["DATABASE_URL"].startswith("postgres://readroom:")
    finally:
        services.close()
    assert "DATABASE_URL" not in os.environ


def test_a_backup_restores_into_another_portal(data: Path, tmp_path: Path) -> None:
    connect = "from django.db import connection; c = connection.cursor(); "
    make = "c.execute('CREATE TABLE backed (name text)'); c.execute('INSERT INTO backed VALUES (chr(228))')"
    assert manage(data, "shell", "--no-imports", "-c", connect + make).returncode == 0
    file = tmp_path / "a dump"
    made = manage(data, "backup_database", str(file))
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists already" in manage(data, "backup_database", str(file)).stderr

    other = tmp_path / "other"
    restored = manage(other, "restore_database", str(file))
    assert restored.returncode == 0, restored.stderr
    look = "c.execute('SELECT name FROM backed'); print(c.fetchone()[0])"
    assert manage(other, "shell", "--no-imports", "-c", connect + look).stdout.strip() == "ä"
    assert "not empty" in manage(other, "restore_database", str(file)).stderr
