"""docker-compose.yml runs the same commands as `manage.py up`, which the other tests run. No Docker is needed here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands
from psycopg import connect, sql

from portal.runtime import commands
from portal.runtime.data_folder import REPOSITORY
from portal.viewer import install as viewer
from tests.portal.runtime.processes import manage, put_viewer

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "readroom"}
EXPECTED = {
    "setup": ["manage.py", "prepare"],
    "web": commands.web("0.0.0.0", 8000, workers=4).arguments,
    "worker-general": commands.worker("general", ["default", "io"], concurrency=4).arguments,
    "worker-infer-gpu": commands.worker("infer", ["infer"], concurrency=1).arguments,
    "worker-infer-cpu": commands.worker("infer", ["infer"], concurrency=1).arguments,
    "worker-train-gpu": commands.worker("train", ["train"], concurrency=1).arguments,
    "worker-train-cpu": commands.worker("train", ["train"], concurrency=1).arguments,
    "beat": commands.beat("/data/run/beat-schedule").arguments,
    "dimse": commands.dimse().arguments,
}


def words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else command


def test_every_service_of_ours_is_expected() -> None:
    assert set(OURS) == set(EXPECTED)
    assert set(SERVICES) - set(OURS) == {"postgres", "valkey", "nginx"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_command_is_the_supervisors(name: str) -> None:
    assert words(OURS[name]["command"]) == ["python", *EXPECTED[name]]


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_every_queue_has_a_worker_in_each_profile(profile: str) -> None:
    active = [service for service in OURS.values() if profile in service.get("profiles", [profile])]
    served = [
        queue
        for service in active
        if "--queues" in words(service["command"])
        for queue in words(service["command"])[words(service["command"]).index("--queues") + 1].split(",")
    ]
    assert sorted(served) == sorted(settings.QUEUES)


def test_only_the_workers_with_a_gpu_reserve_one() -> None:
    with_gpu = {name for name, service in OURS.items() if "deploy" in service}
    assert with_gpu == {"worker-infer-gpu", "worker-train-gpu"}
    for name in with_gpu:
        devices = OURS[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_files_that_it_names_exist() -> None:
    assert (REPOSITORY / OURS["web"]["build"]["dockerfile"]).is_file()
    mounted = [volume.split(":")[0] for volume in SERVICES["nginx"]["volumes"] if volume.startswith("./")]
    assert mounted
    assert all((REPOSITORY / path).is_file() for path in mounted)
    image = (REPOSITORY / "deploy/Dockerfile").read_text()
    assert f"npm pack {viewer.PACKAGE}@{viewer.VERSION} " in image
    for source in re.findall(r"^COPY (?!--from)(\S+)", image, re.M):
        assert (REPOSITORY / source).exists()


def test_nginx_logs_no_query_and_serves_what_the_portal_collects() -> None:
    configuration = (REPOSITORY / "deploy/nginx.conf").read_text()
    logged = re.search(r"log_format without_query '([^']*)'", configuration)
    assert logged
    for variable in ("$request ", "$request_uri", "$args", "$query_string", "$http_referer"):
        assert variable not in logged[1] + " "
    assert configuration.count("access_log") == configuration.count("access_log /dev/stdout without_query;")
    assert "alias /data/static/;" in configuration


@pytest.fixture
def empty_database():
    """The address of a fresh database on the server of the tests."""
    address = os.environ["DATABASE_URL"]
    name = f"readroom_prepare_{os.getpid()}"
    with connect(address, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield re.sub(r"/[^/]*$", f"/{name}", address)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_the_set_up_with_production_settings(tmp_path: Path, empty_database: str) -> None:
    assert "prepare" in get_commands()
    put_viewer(tmp_path / "data")
    more = {
        "DJANGO_SETTINGS_MODULE": "portal.settings.prod",
        "DATABASE_URL": empty_database,
        "CELERY_BROKER_URL": os.environ["CELERY_BROKER_URL"],
        "ALLOWED_HOSTS": "readroom.example",
    }
    answer = manage(tmp_path / "data", "prepare", **more)
    assert answer.returncode == 0, answer.stderr
    password = (tmp_path / "data" / "admin-password").read_text().strip()
    assert password not in answer.stdout  # a container's output is kept in logs
    assert (tmp_path / "data" / "static" / "staticfiles.json").is_file()
    again = manage(tmp_path / "data", "prepare", **more)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    deployed = manage(tmp_path / "data", "check", "--deploy", "--fail-level", "ERROR", **more)
    assert deployed.returncode == 0, deployed.stderr


def test_make_knows_the_commands_that_people_type() -> None:
    for target in ("run", "test", "lint", "demo"):
        plan = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True)
        assert plan.returncode == 0, plan.stderr
    assert "make lint\nmake test\n" in (REPOSITORY / ".ci/run").read_text()
