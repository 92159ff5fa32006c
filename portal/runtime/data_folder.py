"""The data folder of one portal: where everything lies, and who may open it."""

import contextlib
import json
import os
import pwd
import secrets
from pathlib import Path
from typing import Any

from portal.runtime.errors import RuntimeProblem

REPOSITORY = Path(__file__).resolve().parents[2]


class DataFolder:
    """Paths below DATA. `run/` holds locks, ports and passwords of what is running; nothing in it needs a backup."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("DATA") or REPOSITORY / "data").absolute()
        self.run = self.root / "run"
        self.logs = self.root / "logs"
        self.postgres = self.root / "postgres"
        self.valkey = self.root / "valkey"
        self.secret_key = self.root / "secret_key"
        self.deid_key = self.root / "deid_key"
        self.admin_password = self.root / "admin-password"

    def create(self) -> None:
        """Make the folder, readable for its owner only.

        As root the folder may be traversed by others, because PostgreSQL runs as an unprivileged user; what lies in it
        stays closed.

        Raises RuntimeProblem if the folder belongs to somebody else or cannot be written.
        """
        try:
            if not self.root.exists():
                self.root.mkdir(parents=True, mode=0o711 if os.geteuid() == 0 else 0o700)
            for folder in (self.run, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
            owner = self.run.stat().st_uid
        except OSError as error:
            raise RuntimeProblem(
                f"The data folder {self.root} cannot be written: {error.strerror}.",
                "Set DATA to a folder that you may write.",
            ) from error
        if owner != os.geteuid():
            raise RuntimeProblem(
                f"The data folder {self.root} belongs to the user {_user_name(owner)}, but this is "
                f"{_user_name(os.geteuid())}.",
                f"Run this as {_user_name(owner)}, or set DATA to a folder of your own.",
            )

    def read_or_create_secret(self, path: Path, length: int = 50) -> str:
        """The text of a 0600 file that is made with random content once, even if two processes ask at the same time."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            write_private(fresh, secrets.token_urlsafe(length) + "\n")
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
        return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def write_private_json(path: Path, value: Any) -> None:
    """Replace a private JSON file in one step, so that a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(fresh, json.dumps(value))
    fresh.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None if there is none."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"
