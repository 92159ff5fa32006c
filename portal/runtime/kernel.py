"""What the kernel says about memory: how much may still be taken, and how often it ended a process for want of it.

Both on this machine and in this container: cgroup v2 and v1, by the files that can be read.
"""

from __future__ import annotations

from pathlib import Path

import psutil

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# limit, use, and what of the use the kernel gives back when asked
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def memory_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How often the kernel killed a process for want of memory. Counters that cannot be read count 0."""
    files = [proc / "vmstat"]
    for folder, names in _groups(proc, cgroups):
        files.append(folder / ("memory.events" if names is _V2 else "memory.oom_control"))
    return sum(_entry(file, "oom_kill") for file in files)


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that a process may still take: what the machine has, within what is left to this container."""
    free = int(psutil.virtual_memory().available)
    for folder, (limit_name, used_name, reclaimable) in _groups(proc, cgroups):
        limit, used = _text(folder / limit_name).strip(), _text(folder / used_name).strip()
        if limit.isdigit() and used.isdigit():  # without a limit v2 says "max", v1 a number beyond any machine
            free = min(free, max(int(limit) - int(used) + _entry(folder / "memory.stat", reclaimable), 0))
    return free


def total_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that the machine has, within the limits of this container."""
    total = int(psutil.virtual_memory().total)
    for folder, (limit_name, *_) in _groups(proc, cgroups):
        limit = _text(folder / limit_name).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def _groups(proc: Path, cgroups: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's memory cgroups, with the names of their files."""
    found = []
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append((cgroups / path.lstrip("/"), _V2))
        elif "memory" in controllers.split(","):
            found.append((cgroups / "memory" / path.lstrip("/"), _V1))
    return found


def _entry(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
