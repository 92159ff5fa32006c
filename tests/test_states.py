"""docs/states.md is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

from inference.jobs import services as jobs
from inference.registry import models as registry
from portal.annotation import states

PAGE = (Path(settings.BASE_DIR) / "docs" / "states.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def words(cell: str) -> frozenset[str]:
    return frozenset(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize(
    ("heading", "transitions"), [("Job", jobs.TRANSITIONS), ("Version of a model", registry.TRANSITIONS)]
)
def test_transitions(heading, transitions):
    told = {state: words(to) for first, to in table(heading) for state in words(first)}
    assert told == {str(state): frozenset(map(str, to)) for state, to in transitions.items()}


@pytest.mark.parametrize(
    ("heading", "steps", "stays"),
    [("Campaign", states.CAMPAIGN_STEPS, states._STAYS), ("Reading task", states.TASK_STEPS, frozenset())],
)
def test_steps(heading, steps, stays):
    told = {next(iter(words(step))): (words(first), words(to)) for step, first, to in table(heading)}
    assert told == {
        step: (frozenset(map(str, first)), frozenset() if step in stays else frozenset({str(to)}))
        for step, (first, to) in steps.items()
    }
