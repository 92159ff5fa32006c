"""Reading the environment: a wrong value ends the start with a sentence that names it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from portal.runtime.data_folder import DataFolder
from portal.runtime.errors import RuntimeProblem

BASE_DIR = Path(__file__).resolve().parents[2]
# An address where nothing listens: settings load for commands that need no service, and a connection fails at once.
NO_DATABASE = "postgres://nobody@127.0.0.1:9/not-started"
NO_BROKER = "redis://127.0.0.1:9/0"
TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def text(name: str, default: str = "") -> str:
    return os.environ.get(name, "").strip() or default


def number(name: str, default: int, *, at_least: int = 0, at_most: int | None = None) -> int:
    """An integer from `at_least` to `at_most`."""
    raw = text(name)
    if not raw:
        return default
    bounds = f"from {at_least}" + (f" to {at_most}" if at_most is not None else "")
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number {bounds}, not {raw!r}.") from None
    if value < at_least or (at_most is not None and value > at_most):
        raise ImproperlyConfigured(f"{name} must be a whole number {bounds}, not {raw}.")
    return value


def seconds(name: str, default: float) -> float:
    """A length of time greater than nought."""
    raw = text(name)
    try:
        value = float(raw) if raw else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ImproperlyConfigured(f"{name} must be a number of seconds greater than 0, not {raw!r}.")
    return value


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = text(name, default).lower()
    if value not in allowed:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(allowed)}, not {value!r}.")
    return value


def switch(name: str, default: bool) -> bool:
    raw = text(name).lower()
    if not raw:
        return default
    if raw not in TRUE | FALSE:
        raise ImproperlyConfigured(f"{name} must be true or false, not {raw!r}.")
    return raw in TRUE


def words(name: str, default: list[str]) -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in text(name).split(",") if word.strip()] or default


def folder(name: str, default: Path) -> Path:
    path = Path(text(name, str(default))).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ImproperlyConfigured(f"{name} must be a folder, but {path} is a file.")
    return path


def database(find_running: Callable[[], str | None]) -> dict[str, Any]:
    """The database of DATABASE_URL, else the embedded one that is running."""
    form = "DATABASE_URL must be postgres://USER:PASSWORD@HOST:PORT/NAME"
    url = text("DATABASE_URL") or find_running() or NO_DATABASE
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(f"{form}; only PostgreSQL works.")
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise ImproperlyConfigured(f"{form}; it names no database.")
    try:
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured(f"{form}; its port is no number from 1 to 65535.") from None
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": port or "",
        "OPTIONS": dict(parse_qsl(parts.query)),
    }


def broker(find_running: Callable[[], str | None]) -> str:
    """The broker of CELERY_BROKER_URL, else the embedded one that is running."""
    url = text("CELERY_BROKER_URL") or find_running() or NO_BROKER
    if urlsplit(url).scheme not in {"redis", "rediss", "valkey", "valkeys"}:
        raise ImproperlyConfigured("CELERY_BROKER_URL must be redis://:PASSWORD@HOST:PORT/0; Valkey and Redis work.")
    return url.replace("valkey", "redis", 1) if url.startswith("valkey") else url


def kept_secret_key(data: Path) -> str:
    """The signing key in DATA/secret_key, made at the first start."""
    return _kept(DataFolder(data), DataFolder(data).secret_key, "SECRET_KEY")


def kept_deid_key(data: Path) -> str:
    """The key of pseudonyms in DATA/deid_key, made at the first start."""
    return _kept(DataFolder(data), DataFolder(data).deid_key, "DEID_KEY")


def _kept(folder: DataFolder, path: Path, variable: str) -> str:
    try:
        if not path.exists():
            folder.create()
        return folder.read_or_create_secret(path)
    except RuntimeProblem as problem:
        raise ImproperlyConfigured(str(problem)) from None
    except OSError as error:
        raise ImproperlyConfigured(f"{path} cannot be read: {error.strerror}. Or set {variable}.") from None


def required_with(name: str, other: str) -> str:
    """A text that may not lack where `other` is given."""
    value = text(name)
    if not value and text(other):
        raise ImproperlyConfigured(f"{name} is not set. It goes with {other}.")
    return value


def required(name: str, why: str) -> str:
    value = text(name)
    if not value:
        raise ImproperlyConfigured(f"{name} is not set. {why}")
    return value
