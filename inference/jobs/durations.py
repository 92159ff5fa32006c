"""Lengths of time in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min"
