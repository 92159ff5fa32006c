"""Development data beside the checkout; tests that need it skip, visibly, where it is absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def reference(name: str) -> dict[str, Any]:
    """Inputs and expected results of a statistic, made with another implementation."""
    return json.loads(path(f"reference/{name}").read_text())


def path(name: str) -> Path:
    found = SHARED / name
    if not found.exists():
        pytest.skip(f"the development data beside the checkout is absent ({name})")
    return found
