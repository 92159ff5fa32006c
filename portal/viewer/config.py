"""OHIF's configuration: which DICOMweb root it reads, our extension and mode.

A scope is the part of the archive that one viewer page may see: everything of the user, one project, or one reading
task. It stands in the page's path, so that a UID that two projects share is never ambiguous.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from django.conf import settings
from django.templatetags.static import static
from django.urls import reverse

from portal.frame import styles
from portal.viewer import serving
from portal.viewer.patches import PREFIX


@dataclass(frozen=True)
class Scope:
    kind: str  # "all", "project" or "task"
    base: str  # path of the viewer page
    dicomweb_root: str

    @classmethod
    def of_project(cls, slug: str) -> Scope:
        return cls("project", f"{PREFIX}p/{slug}/", f"/dicomweb/projects/{slug}")

    @classmethod
    def of_task(cls, pk: int) -> Scope:
        return cls("task", f"{PREFIX}tasks/{pk}/", f"/dicomweb/tasks/{pk}")


EVERYTHING = Scope("all", PREFIX, "/dicomweb")


def page(scope: Scope, index: str) -> str:
    """OHIF's index.html, reading the configuration of this scope."""
    return index.replace(f'src="{PREFIX}app-config.js"', f'src="{scope.base}app-config.js"')


def script(scope: Scope) -> str:
    """The text of app-config.js: what only the server knows, then `boot.js`, which builds `window.config` from it."""
    modules = f"{PREFIX}extension/{serving.extension_digest()}/"
    facts = {
        "kind": scope.kind,
        "base": scope.base,
        "dicomwebRoot": scope.dicomweb_root,
        "modules": modules,
        "csrfCookie": settings.CSRF_COOKIE_NAME,
        "login": reverse(settings.LOGIN_URL),
        "home": reverse("studies"),
        "homeTitle": "Back to the studies",
        "styles": styles.addresses(),
        "icons": static("icons.svg"),
    }
    boot = (serving.EXTENSION / "boot.js").read_text(encoding="utf-8")
    return f"window.readroom = {json.dumps(facts)};\n{boot}"
