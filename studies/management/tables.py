"""What the commands that import tables share: who and where, what columns are, and telling what is wrong with rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from portal.accounts.models import Project, User
from studies.cohorts.tables import Choices, Column

SHOWN = 200  # problems on the screen; --json has all
OF_VALUES = ("number", "category", "date", "survival")  # kinds of which a table may have several columns


def project_of(slug: str) -> Project:
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        raise CommandError(f"There is no project “{slug}”.")
    return project


def user_of(name: str | None) -> User | None:
    user = User.objects.filter(username=name).first() if name else None
    if name and user is None:
        raise CommandError(f"There is no user “{name}”.")
    return user


def bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"The file cannot be read: {error.strerror}.") from error


def columns_of(suggested: Choices, given: Sequence[str]) -> list[Column]:
    """The suggested columns, changed by texts HEADING=KIND[:UNIT]."""
    told: dict[str, tuple[str, str]] = {}
    for text in given:
        heading, _, kind = text.rpartition("=")
        kind, _, unit = kind.partition(":")
        if heading not in {column.name for column in suggested.columns}:
            raise CommandError(f"The table has no column “{heading}”.")
        told[heading] = (kind, unit)
    # A heading given for an identifier takes the place of the one that was guessed.
    single = {kind for kind, _ in told.values() if kind not in OF_VALUES}
    columns = []
    for column in suggested.columns:
        if column.name in told:
            kind, unit = told[column.name]
            column = replace(column, kind=kind, unit=unit or column.unit)
        elif column.kind in single:
            column = replace(column, kind="ignore")
        columns.append(column)
    return columns


def tell_problems(out: OutputWrapper, file: Path, problems: Sequence[dict[str, Any]]) -> None:
    for problem in problems[:SHOWN]:
        where = f"row {problem['row']}" if problem["row"] else "file"
        column = f", {problem['column']}" if problem["column"] else ""
        out.write(f"{file.name}: {where}{column}: [{problem['code']}] {problem['cause']}")
    if len(problems) > SHOWN:
        out.write(f"… and {len(problems) - SHOWN} more")
