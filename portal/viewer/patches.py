"""What is changed in the OHIF release so that it runs below `/viewer/`: text replacements, each counted.

A replacement that finds nothing is an error, since a viewer that half works is worse than none. The digest of this
module is part of the installed folder's name: a changed patch installs anew, beside the old one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PREFIX = "/viewer/"

# Not needed: machine learning in the browser, the service worker, slide microscopy, other sign-in ways, splash icons.
DROPPED = (
    "ort",
    "dicom-microscopy-viewer",
    "sw.js",
    "init-service-worker.js",
    "polyfill.min.js",
    "es6-shim.min.js",
    "google.js",
    "oidc-client.min.js",
    "silent-refresh.html",
    "serve.json",
    "manifest.json",
    "app-config.js",
    "_headers",
    "_redirects",
)
DROPPED_PATTERNS = ("assets/apple-touch-*", "assets/android-chrome-*", "assets/mstile-*", "assets/firefox_app_*")


@dataclass(frozen=True)
class Patch:
    """Replace `pattern` by `replacement` in the files that `glob` names, at least `at_least` times."""

    name: str
    glob: str
    pattern: str
    replacement: str
    at_least: int = 1

    def apply(self, text: str) -> tuple[str, int]:
        return re.subn(self.pattern, self.replacement, text)


PATCHES = (
    # Workers carry their own copy of the public path.
    Patch("public path", "*.bundle.*.js", r'__webpack_require__\.p = "/";', f'__webpack_require__.p = "{PREFIX}";', 8),
    Patch(
        "microscopy import",
        "app.bundle.*.js",
        r"browserImportFunction\('/dicom-microscopy-viewer",
        f"browserImportFunction('{PREFIX}dicom-microscopy-viewer",
    ),
    Patch("style sheet addresses", "*.css", r"url\(/(?!/)", f"url({PREFIX}"),
    Patch("PUBLIC_URL", "index.html", r'window\.PUBLIC_URL="/"', f'window.PUBLIC_URL="{PREFIX}"', 2),
    Patch("service worker", "index.html", r'<script [^>]*src="/init-service-worker\.js"></script>', ""),
    Patch("manifest", "index.html", r'<link rel="manifest"[^>]*>', ""),
    Patch("splash icons", "index.html", r'<link rel="(?:apple-touch-[a-z-]+|yandex-tableau-widget)"[^>]*>', "", 10),
    Patch("tile images", "index.html", r'<meta name="msapplication-[A-Za-z]+"[^>]*>', "", 3),
    Patch("title", "index.html", r"<title>[^<]*</title>", "<title>Viewer · Readroom</title>"),
    Patch("page addresses", "index.html", r'(href|src|content)="/(?!/)', rf'\1="{PREFIX}', 4),
)


def digest() -> str:
    """Ten hexadecimal digits that change whenever this module does."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]
