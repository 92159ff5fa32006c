"""Waiting for a job in a command: a progress bar on stderr, and Ctrl-C leaves the job running."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from inference.jobs import services
from inference.jobs.durations import duration
from inference.jobs.models import Job

WIDTH = 28
QUIET_FOR = 15  # seconds in the queue after which the bar asks whether a worker runs


def wait(job: Job, on_progress: Callable[[Job], None] | None = None, *, interval: float = 0.5) -> Job:
    """Block until the job has ended; `on_progress(job)` is called after every look. Answers the job as it ended."""
    while True:
        job.refresh_from_db()
        if on_progress is not None:
            on_progress(job)
        if job.ended:
            return job
        time.sleep(interval)


def follow(job: Job, stream: TextIO | None = None) -> Job:
    """`wait` with a progress bar, for commands with `--wait`. Ctrl-C leaves the command (status 130), not the job."""
    bar = ProgressBar(stream or sys.stderr)
    try:
        return wait(job, bar)
    except KeyboardInterrupt:
        bar.close()
        bar.stream.write(f"Job {job.pk} goes on without you: see /jobs/{job.pk}/ (cancel it there).\n")
        raise SystemExit(130) from None
    finally:
        bar.close()


class ProgressBar:
    """One line that is rewritten on a terminal; elsewhere a new line whenever the words change."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._started = time.monotonic()
        self._last = ""
        self._open = False

    def __call__(self, job: Job) -> None:
        line = self.line(job)
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{line}")
            self._open = True
        elif line != self._last:
            self.stream.write(line + "\n")
        self._last = line
        self.stream.flush()
        if job.ended:
            self.close()

    def line(self, job: Job) -> str:
        head = f"job {job.pk} {job.state}"
        if job.state == Job.State.QUEUED:
            hint = "; is a worker running?" if time.monotonic() - self._started > QUIET_FOR else ""
            return f"{head}, place {services.position(job)} in queue {job.queue}{hint}"
        if job.ended:
            return f"{head}: {job.cause}" if job.cause else head
        if not self.stream.isatty():
            return f"{head} {job.progress_text}".rstrip()
        filled = round(job.progress * WIDTH)
        left = "" if job.seconds_left is None else f", about {duration(job.seconds_left)} left"
        text = f"  {job.progress_text}" if job.progress_text else ""
        return f"{head} [{'#' * filled}{'.' * (WIDTH - filled)}] {job.progress:4.0%}{left}{text}"

    def close(self) -> None:
        if self._open:
            self.stream.write("\n")
            self._open = False
