"""Every page of the portal in a real browser: accessible, nothing clipped, no error in its scripts.

The pages are those of docs/permissions.md, so a new page is looked at without a line here. axe-core judges WCAG 2.1 AA,
contrast included, in the dark and the light theme. With `SCREENSHOTS=folder` each page is also kept as a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import axe_playwright_python
import pytest
from django.test import Client
from playwright.sync_api import Page

from portal.accounts.models import User
from tests.test_permissions import LINES, ROUTES, address, build

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Not ours to lay out: OHIF, and what Django admin or a browser shows by itself.
FOREIGN = ("viewer", "api_", "dicomweb", "task:", "admin")
VIOLATIONS = """async () => {
  const found = await axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"], iframes: false,
  });
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ target, failureSummary }) =>
    `${target.join(" ")} (${(failureSummary ?? "").replace(/\\s+/g, " ").slice(0, 160)})`).join("; ")}`);
}"""
# Elements that stick out of the window although nothing lets a reader scroll to them.
OVERFLOW = """() => {
  const room = document.documentElement.clientWidth;
  return document.scrollingElement.scrollWidth > room + 1
    ? [...document.querySelectorAll("body *")].filter((node) => node.getBoundingClientRect().right > room + 1)
        .slice(0, 3).map((node) => `${node.tagName.toLowerCase()}.${node.className}`)
    : [];
}"""


def pages(world: SimpleNamespace) -> Iterator[tuple[str, str, User]]:
    """(route, address, somebody who may see it) of every route that answers with a page of ours."""
    for route, method, expected in LINES:
        if method != "GET" or route.startswith(FOREIGN) or route not in ROUTES:
            continue
        role = next((role for role in ("administrator", "manager", "reader") if expected[role] == "in"), None)
        if role is None:
            continue
        user = world.users[role]
        client = Client(raise_request_exception=False)
        client.force_login(user)
        url = address(world, route)
        response = client.get(url)
        is_html = response.status_code == 200 and response["Content-Type"].startswith("text/html")
        if is_html and b"<html" in response.content[:400]:
            yield route, url, user


@pytest.mark.parametrize(("theme", "width"), [("dark", 1440), ("light", 390)])
def test_every_page_is_accessible_and_fits(sign_in, theme, width):
    world = build()
    User.objects.update(theme=theme)
    windows: dict[int, Page] = {}
    errors: list[str] = []
    wrong: list[str] = []
    seen = 0
    for route, url, user in pages(world):
        page = windows.get(user.pk)
        if page is None:
            page = windows[user.pk] = sign_in(user, reduced_motion="reduce")
            page.set_viewport_size({"width": width, "height": 900})
            page.on("pageerror", lambda error: errors.append(f"script: {error}"))
        page.goto(url, wait_until="load")
        assert page.locator("html").get_attribute("data-theme") == theme, url
        page.evaluate(AXE)
        found = errors + page.evaluate(VIOLATIONS) + [f"sticks out: {name}" for name in page.evaluate(OVERFLOW)]
        wrong += [f"{route}: {line}" for line in found]
        errors.clear()
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{route}-{theme}-{width}.png", full_page=True)
        seen += 1
    assert seen > 25
    assert not wrong, "\n".join(wrong)
