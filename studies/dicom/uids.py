"""Unique identifiers made from content, so that doing the same thing twice makes the same object."""

from __future__ import annotations

import uuid

# Namespace of identifiers that Readroom derives; any fixed UUID does.
NAMESPACE = uuid.UUID("7e0f6f7e-3f0c-5f0e-9d51-1a2b3c4d5e6f")


def new_uid() -> str:
    """A random UID below 2.25 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def derived_uid(*parts: object) -> str:
    """The UID below 2.25 that belongs to these parts; the same parts give the same UID."""
    return f"2.25.{uuid.uuid5(NAMESPACE, chr(31).join(str(part) for part in parts)).int}"
