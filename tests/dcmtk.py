"""dcmtk, the other side of the DIMSE tests: found on this machine, or installed."""

from __future__ import annotations

import shutil
import subprocess

from tests import debian

TOOLS = ["echoscu", "storescu", "findscu", "movescu", "getscu", "storescp", "dcmqrscp"]


def _real(tool: str) -> str | None:
    """pynetdicom brings commands of the same names into the virtual environment; those are not meant."""
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        if path := shutil.which(tool, path=folder):
            return path
    return None


def path_of(tool: str) -> str:
    path = _real(tool)
    if path is None:
        raise FileNotFoundError(tool)
    return path


def found() -> bool:
    return all(_real(tool) for tool in TOOLS)


def with_tls() -> bool:
    """Whether this dcmtk was built with OpenSSL."""
    if not found():
        return False
    answer = subprocess.run([path_of("storescu"), "--version"], capture_output=True, text=True)
    return "OpenSSL" in answer.stdout


def install() -> bool:
    debian.install("dcmtk")
    return found()
