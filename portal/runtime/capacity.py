"""What a worker has to work with: cores, memory, graphics cards; told with its signs of life."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from typing import Any

import psutil

from portal.runtime.kernel import available_memory, total_memory

DEVICES_EVERY_SECONDS = 30.0
_QUERY = ["--query-gpu=name,memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits"]
_devices: tuple[float, list[dict[str, Any]]] = (-DEVICES_EVERY_SECONDS, [])


def facts(queues: list[str], concurrency: int) -> dict[str, Any]:
    """Of this worker and its machine. Memory in bytes; `memory` is that of the worker and its children."""
    return {
        "queues": queues,
        "concurrency": concurrency,
        "machine": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _resident(),
        "memory_free": available_memory(),
        "memory_total": total_memory(),
        "devices": devices(),
    }


def _resident() -> int:
    """Proportional memory would be fairer to pages that forked children share, but costs milliseconds a process."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total


def devices() -> list[dict[str, Any]]:
    """Graphics cards as their driver tells: name, memory used and there (bytes), use in percent. Asked now and then."""
    global _devices
    asked, found = _devices
    if time.monotonic() - asked >= DEVICES_EVERY_SECONDS:
        found = _ask_driver()
        _devices = (time.monotonic(), found)
    return found


def _ask_driver() -> list[dict[str, Any]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(answer)


def parse(answer: str) -> list[dict[str, Any]]:
    """The driver's table. A value that a card does not tell (`[N/A]`) is None."""
    found = []
    for line in answer.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 4:
            continue
        used, total, busy = (int(cell) if cell.isdigit() else None for cell in cells[1:])
        found.append(
            {
                "name": cells[0],
                "memory_used": None if used is None else used << 20,
                "memory_total": None if total is None else total << 20,
                "busy": busy,
            }
        )
    return found
