"""Backup and restore of the database with PostgreSQL's own programs."""

import os
import shutil
import subprocess
from pathlib import Path

from django.db import connection

from portal.runtime.errors import RuntimeProblem
from portal.runtime.postgres import programs


def dump(target: Path) -> None:
    """Write the whole database to a new file, private to its owner. Raises RuntimeProblem."""
    if target.exists():
        raise RuntimeProblem(f"{target} exists already.", "Give the name of a new file.")
    partial = target.with_name(f".{target.name}.partial")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={partial}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def restore(source: Path) -> None:
    """Fill the database, which must be empty, in one transaction. Raises RuntimeProblem."""
    if not source.is_file():
        raise RuntimeProblem(f"There is no file {source}.")
    if connection.introspection.table_names():
        raise RuntimeProblem("The database is not empty.", "Restore into a new DATA, or into an empty database.")
    connection.close()
    _run(
        "pg_restore",
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        f"--dbname={connection.settings_dict['NAME']}",
        str(source),
    )


def _run(program: str, *arguments: str) -> None:
    database = connection.settings_dict
    found = programs() / program
    command = str(found) if found.exists() else shutil.which(program)
    if command is None:
        raise RuntimeProblem(f"{program} was not found.", "Install the client programs of PostgreSQL.")
    answer = subprocess.run(
        [command, *arguments],
        env={
            **os.environ,
            "PGHOST": str(database["HOST"]),
            "PGPORT": str(database["PORT"] or 5432),
            "PGUSER": str(database["USER"]),
            "PGPASSWORD": str(database["PASSWORD"]),
            "PGDATABASE": str(database["NAME"]),
        },
        capture_output=True,
        text=True,
    )
    if answer.returncode != 0:
        raise RuntimeProblem(f"{program} failed: {answer.stderr.strip()}")
