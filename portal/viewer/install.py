"""Install the pinned OHIF release below DATA/viewer: fetch, check, unpack, patch, compress.

The folder appears under its final name by one rename, so that it is either whole or absent. A file lock keeps two
runs apart. OHIF is MIT-licensed (https://github.com/OHIF/Viewers); its licence text stays beside the files.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from portal.viewer import patches

PACKAGE = "@ohif/app"
VERSION = "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
COMPRESSED_SUFFIXES = {".js", ".css", ".html", ".json", ".jsonc", ".svg", ".wasm", ".map"}
FETCH_SECONDS = 900

Say = Callable[[str], None]


class InstallError(Exception):
    """The viewer could not be installed; carries a cause and a next step for people."""

    def __init__(self, cause: str, next_step: str):
        super().__init__(f"{cause} {next_step}")
        self.cause = cause
        self.next_step = next_step


def folder(data: Path) -> Path:
    """Where this release with these patches belongs; it need not exist yet."""
    return data / "viewer" / f"{VERSION}-{patches.digest()}"


def installed(data: Path) -> bool:
    return (folder(data) / "index.html").is_file()


def install(data: Path, *, tarball: Path | None = None, say: Say = lambda text: None) -> Path:
    """Make sure that the viewer is there and return its folder. Does nothing where it is there already.

    `tarball` replaces the download. Raises InstallError.
    """
    target = folder(data)
    if installed(data):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.parent / ".lock"):
            if not installed(data):
                _build(target, tarball, say)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InstallError(
                f"The disk below {target.parent} is full.", "Free about 300 MB there or set DATA to another disk."
            ) from error
        raise InstallError(
            f"Could not write the viewer below {target.parent}: {error.strerror or error}.",
            "Make that folder writable or set DATA to another one.",
        ) from error
    return target


def _build(target: Path, tarball: Path | None, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        if tarball is None:
            say(f"Fetching the viewer, {PACKAGE} {VERSION} (48 MB)")
            tarball = fetch(Path(scratch))
        check(tarball)
        say("Unpacking and patching the viewer")
        dist = unpack(tarball, Path(scratch))
        patch(dist)
        compress(dist)
        os.replace(dist, target)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    # The kernel drops the lock with the process: nothing stale stays behind.
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(into: Path) -> Path:
    """Get the release's tarball with `npm pack` (no install, no scripts run)."""
    npm = shutil.which("npm")
    without = f"Install npm, or fetch the tarball of {PACKAGE} {VERSION} elsewhere and set VIEWER_TARBALL to its path."
    if npm is None:
        raise InstallError("npm is needed to fetch the viewer and was not found.", without)
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts", "--pack-destination", str(into)]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"npm did not finish within {FETCH_SECONDS} seconds.", f"Try again. {without}") from error
    found = sorted(into.glob("*.tgz"))
    if done.returncode or not found:
        words = " ".join((done.stderr or done.stdout).split())[-400:] or f"exit code {done.returncode}"
        raise InstallError(f"npm could not fetch the viewer: {words}.", f"Check the network and registry. {without}")
    return found[0]


def check(tarball: Path) -> None:
    """Compare the tarball's SHA-512 with the pinned one."""
    if not tarball.is_file():
        raise InstallError(f"There is no viewer tarball at {tarball}.", "Set VIEWER_TARBALL to an existing file.")
    with tarball.open("rb") as handle:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(handle, "sha512").digest()).decode()
    if found != INTEGRITY:
        raise InstallError(
            f"The viewer tarball {tarball.name} is not the pinned release {VERSION} (SHA-512 differs).",
            f"Fetch it again with `npm pack {PACKAGE}@{VERSION}`; do not use this file.",
        )


def unpack(tarball: Path, into: Path) -> Path:
    """Unpack what is needed and return the folder of the built application."""
    dropped = tuple(f"package/dist/{name}" for name in patches.DROPPED)

    # Python's own filters for unpacking came with 3.11.4; Debian 12 has 3.11.2.
    try:
        with tarfile.open(tarball) as archive:
            for member in archive:
                if member.name in dropped or member.name.startswith(tuple(f"{name}/" for name in dropped)):
                    continue
                target = Path(os.path.normpath(into / member.name))
                if not target.is_relative_to(into):
                    raise tarfile.TarError(f"{member.name} lies outside")
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content, target.open("wb") as file:
                        shutil.copyfileobj(content, file, 1024 * 1024)
    except tarfile.TarError as error:
        raise InstallError(f"The viewer tarball cannot be unpacked: {error}.", "Fetch it again.") from error
    dist = into / "package" / "dist"
    for pattern in patches.DROPPED_PATTERNS:
        for path in dist.glob(pattern):
            path.unlink()
    shutil.copy(into / "package" / "LICENSE", dist / "LICENSE")
    return dist


def patch(dist: Path) -> dict[str, int]:
    """Apply every patch below `dist`; return how often each matched."""
    counts = {}
    for change in patches.PATCHES:
        counts[change.name] = 0
        for path in sorted(dist.glob(change.glob)):
            text, count = change.apply(path.read_text(encoding="utf-8"))
            if count:
                path.write_text(text, encoding="utf-8")
            counts[change.name] += count
        if counts[change.name] < change.at_least:
            raise InstallError(
                f"The viewer's release does not fit: “{change.name}” was found {counts[change.name]} times, "
                f"expected at least {change.at_least}.",
                f"Use the pinned release {VERSION}, or adapt portal/viewer/patches.py to the new one.",
            )
    return counts


def compress(dist: Path) -> None:
    """Write `name.gz` beside every text or WebAssembly file that shrinks by it."""

    def one(path: Path) -> None:
        data = path.read_bytes()
        packed = gzip.compress(data, 6, mtime=0)
        if len(packed) < 0.9 * len(data):
            path.with_name(path.name + ".gz").write_bytes(packed)

    paths = [path for path in dist.rglob("*") if path.is_file() and path.suffix in COMPRESSED_SUFFIXES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib works outside the interpreter lock
        list(pool.map(one, paths))
