"""Setting up: the lock files, the virtual environment, and how much a process loads before it works."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from portal.runtime.data_folder import REPOSITORY
from tests.portal.runtime.processes import environment

LOCKS = ["requirements.lock", "requirements-dev.lock"]
SOURCES = [path for room in ("portal", "studies", "inference") for path in (REPOSITORY / room).rglob("*.py")]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[\w.]+", line) for line in lines), "exact versions and nothing else"
    return dict(line.split("==") for line in lines)


def test_the_lock_for_development_holds_the_other() -> None:
    assert pins(LOCKS[0]).items() <= pins(LOCKS[1]).items()


def test_torch_is_left_to_the_machine() -> None:
    assert pins(LOCKS[0])["torch"] == "2.13.0"
    assert not [name for name in pins(LOCKS[1]) if name.startswith(("nvidia", "cuda", "triton"))]


def test_every_dependency_is_locked_and_explained() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    explained = (REPOSITORY / "docs/dependencies.md").read_text()
    for lock, wanted in ((LOCKS[0], project["dependencies"]), (LOCKS[1], project["optional-dependencies"]["dev"])):
        for requirement in wanted:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")  # type: ignore[index]
            assert name in pins(lock), f"{name} is not locked: make lock"
            assert f"`{name}`" in explained, f"docs/dependencies.md does not say why {name} is needed"


def checkout(folder: Path) -> Path:
    """What setting up needs of the repository, with a lock file of nothing."""
    (folder / "portal" / "runtime").mkdir(parents=True)
    shutil.copy(REPOSITORY / "portal/runtime/bootstrap.py", folder / "portal/runtime")
    for name in LOCKS:
        (folder / name).write_text("# nothing\n")
    return folder


def set_up(folder: Path, lock: str = LOCKS[0]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "portal/runtime/bootstrap.py", lock], cwd=folder, capture_output=True, text=True
    )


def test_the_environment_is_made_once_and_again_when_the_folder_moved(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "a folder")
    first = set_up(folder, LOCKS[1])
    assert first.returncode == 0, first.stderr
    assert "Making the virtual environment" in first.stdout
    assert set_up(folder, LOCKS[1]).stdout == ""
    assert set_up(folder, LOCKS[0]).stdout == "", "the lock for development holds this one"

    (folder / LOCKS[0]).write_text("# changed\n")
    changed = set_up(folder)
    assert "Installing" in changed.stdout
    assert "Making" not in changed.stdout

    moved = folder.rename(tmp_path / "moved")
    assert "Making the virtual environment" in set_up(moved).stdout


def test_a_package_that_cannot_be_installed_is_said_in_words(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / LOCKS[0]).write_text("./no-such-folder\n")
    answer = set_up(folder)
    assert answer.returncode == 1
    assert "Error: the packages of requirements.lock could not be installed" in answer.stderr
    (folder / LOCKS[0]).write_text("# nothing\n")
    assert set_up(folder).returncode == 0


@pytest.mark.parametrize("what", ["worker", "web"])
def test_a_process_starts_without_the_heavy_packages(what: str, tmp_path: Path) -> None:
    """torch alone takes two seconds and 200 MB in each of seven processes; the tasks load it when they begin."""
    load = {
        "worker": "from portal.celery import app; app.loader.import_default_modules()",
        "web": "import portal.wsgi; from django.urls import get_resolver; get_resolver().url_patterns",
    }[what]
    code = f"{load}; import sys; print(sorted({{'torch', 'monai', 'lightning', 'plotly'}} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(tmp_path, DJANGO_SETTINGS_MODULE="portal.settings.test", CELERY_SKIP_CHECKS="1"),
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr


def test_tasks_are_declared_in_one_way_only() -> None:
    """Every other way would go around leases, retries and the job's row."""
    allowed = {REPOSITORY / "inference/jobs/task.py"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("celery"):
                found += [path for alias in node.names if alias.name in {"shared_task", "Task"}]
            for decorator in getattr(node, "decorator_list", []):
                target = decorator.func if isinstance(decorator, ast.Call) else decorator
                if isinstance(target, ast.Attribute) and target.attr == "task":
                    found.append(path)
    assert not set(found) - allowed
    assert REPOSITORY / "inference/jobs/task.py" in found, "the search finds the one place there is"


def test_modules_stay_small() -> None:
    long = {str(path.relative_to(REPOSITORY)): count for path in SOURCES if (count := _lines(path)) > 450}
    assert not long


def _lines(path: Path) -> int:
    return 0 if "migrations" in path.parts else len(path.read_text().splitlines())


def test_nothing_of_the_machine_it_was_written_on() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode != 0 or not os.path.exists(REPOSITORY / ".git"):
        pytest.skip("this is no clone")
    for name in tracked.stdout.splitlines():
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".lock", ".toml", ".yml", ".sh", ".conf", ""} and path.is_file():
            assert "/wor" + "k/" not in path.read_text(errors="replace"), name
