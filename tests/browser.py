"""Browser and viewer of the end-to-end tests: found on this machine, or installed."""

from __future__ import annotations

import os
import shutil
import subprocess

from portal.runtime.data_folder import REPOSITORY
from tests import debian

# The installed viewer outlives a test run: unpacking it takes longer than most tests.
VIEWER = REPOSITORY / "build" / "test" / "viewer"
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
PACKAGES = ["chromium", "fonts-dejavu-core"]


def find() -> str | None:
    """The path of a Chromium that starts; `CHROMIUM` in the environment names one."""
    for name in filter(None, [os.environ.get("CHROMIUM"), *NAMES]):
        path = shutil.which(name)
        # Ubuntu's package is a script that only asks for a snap.
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def install() -> str | None:
    """Install it where we may, and return its path."""
    debian.install(*PACKAGES)
    return find()
