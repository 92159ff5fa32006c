"""The style sheets that every page loads, in the order in which they build upon each other."""

from __future__ import annotations

from django.templatetags.static import static

SHEETS = ("tokens", "frame", "components", "tables", "forms", "messages", "charts", "panel", "preferences")


def addresses() -> list[str]:
    return [static(f"css/{name}.css") for name in SHEETS]
