"""What the frame around every page shows: projects, counts in the navigation, theme."""

from __future__ import annotations

from django.http import HttpRequest


def frame(request: HttpRequest) -> dict:
    user = getattr(request, "user", None)
    theme = user.theme if user is not None and user.is_authenticated else "dark"
    return {"theme": request.COOKIES.get("theme", theme)}
