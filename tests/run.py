"""`make test`: fetch what the tests need, run all of them, and end with a line on what could not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from portal.runtime.data_folder import REPOSITORY
from portal.viewer import install as viewer
from tests import browser, dcmtk


def prepare_viewer() -> str | None:
    """Install the viewer for the tests; returns why that was not possible."""
    tarball = os.environ.get("VIEWER_TARBALL")
    try:
        viewer.install(browser.VIEWER.parent, tarball=Path(tarball) if tarball else None, say=print)
    except viewer.InstallError as error:
        return str(error)
    return None


def main(arguments: list[str]) -> int:
    missing = []
    chromium = browser.find() or browser.install()
    if chromium is None:
        missing.append("no Chromium was found, and only root can install it (apt-get install chromium)")
    problem = prepare_viewer()
    if problem is not None:
        missing.append(f"the viewer is not installed ({problem})")
    skipped = [f"the end-to-end tests, because {' and '.join(missing)}"] if missing else []
    if not (dcmtk.found() or dcmtk.install()):
        skipped.append("those against dcmtk, which only root can install (apt-get install dcmtk)")
    # What a portal on this machine is set to must not reach the tests.
    environment = {key: value for key, value in os.environ.items() if key not in {"DATA", "PORT", "HOST", "MEDIA_ROOT"}}
    code = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=REPOSITORY, env=environment).returncode
    for which in skipped:
        print(f"Skipped: {which}.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
