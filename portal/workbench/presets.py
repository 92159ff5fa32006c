"""The training configurations that Readroom brings along."""

from __future__ import annotations

import copy
from functools import cache

from inference.training import config, traditional
from studies.cohorts.models import ReferenceStandard

FOLDER = traditional.PRESETS


@cache
def _all() -> dict[str, config.Config]:
    return {path.stem: config.load(path) for path in sorted(FOLDER.glob("*.toml"))}


def names(task: str = "") -> list[str]:
    """Those for a task, or all."""
    return [name for name, preset in _all().items() if not task or preset["task"] == task]


def load(name: str) -> config.Config | None:
    """The preset of that name, checked; None where there is none."""
    return copy.deepcopy(_all().get(name))


def usual(task: str, reference: ReferenceStandard | None) -> str:
    """The preset that the form starts from; "" where there is none for the task."""
    if task == "classification" and reference is not None:
        return traditional.preset(reference)
    return next(iter(names(task)), "")


def summary(name: str) -> str:
    """The comment at the top of the file."""
    first = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
