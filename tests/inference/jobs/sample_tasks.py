"""Small tasks that a test's worker loads with `--include`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from django.db import connection

from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from studies.models import Patient


@job_task(queue="default")
def add(run: Run) -> dict:
    a, b = run.parameters["numbers"]
    run.log(f"adding {a} and {b}")
    for step, value in enumerate(run.parameters.get("losses", [])):
        run.metric("train_loss", step, value)
    run.progress(1.0, "added")
    return {"sum": a + b}


@job_task(queue="default")
def refuse(run: Run) -> dict:
    raise JobError("The training set has no foreground.", "Choose another reference standard.")


@job_task(queue="default")
def crash(run: Run) -> dict:
    raise ValueError(run.parameters["message"])


@job_task(queue="default")
def exhaust(run: Run) -> dict:
    raise MemoryError


@job_task(queue="train", max_attempts=2)
def mark(run: Run) -> dict:
    """Append a line to a file, then work for `seconds`, so that a test sees every attempt that ever began."""
    with open(run.parameters["file"], "a") as file:
        file.write(f"start attempt={run.attempt} pid={os.getpid()}\n")
    end = time.monotonic() + run.parameters["seconds"]
    steps = 0
    while time.monotonic() < end:
        run.check()
        steps += 1
        run.progress(min(steps / 200, 0.99), f"step {steps}")
        time.sleep(0.05)
    with open(run.parameters["file"], "a") as file:
        file.write(f"end attempt={run.attempt}\n")
    return {"attempt": run.attempt}


@job_task(queue="train", max_attempts=1)
def mark_once(run: Run) -> dict:
    return mark.body(run)


@job_task(queue="default")
def block(run: Run) -> dict:
    """Sit in one long call, as a network's forward pass does, without ever looking up."""
    time.sleep(run.parameters["seconds"])
    return {"slept": run.parameters["seconds"]}


@job_task(queue="default", time_limit=1)
def linger(run: Run) -> dict:
    while True:
        run.check()
        time.sleep(0.05)


@job_task(queue="default")
def lose_database(run: Run) -> dict:
    """At the first attempt the server ends the session, as at a restart of PostgreSQL."""
    if run.attempt == 1:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    return {"attempt": run.attempt}


def keep(run: Run, name: str) -> None:
    """A result that can be counted: a row of the archive."""
    Patient.objects.create(project=run.job.project, patient_id=name)


@job_task(queue="default", max_attempts=2)
def die(run: Run) -> None:
    """The process is killed in the phase `at` of the first `attempts` attempts.

    Its result is kept together with the job's end; where `at` is `stored`, before that.
    """
    at = run.parameters["at"] if run.attempt <= run.parameters.get("attempts", 1) else ""

    def phase(name: str) -> None:
        if name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    phase("claimed")
    run.progress(0.5, "half")
    phase("body")
    if run.parameters["at"] == "stored" and not Patient.objects.filter(patient_id=f"result of {run.job.pk}").exists():
        keep(run, f"result of {run.job.pk}")  # as a prediction, which is looked for before it is made
    phase("stored")
    with run.owned():
        if run.parameters["at"] != "stored":
            keep(run, f"result of {run.job.pk} by {run.attempt}")
        run.finish({"attempt": run.attempt})
        phase("finishing")
    phase("finished")


@job_task(queue="default", max_attempts=2)
def hold(run: Run) -> None:
    """Stay in the transaction that ends the job, after the file `holding` was written, until the file `go` is there."""
    holding, go = Path(run.parameters["holding"]), Path(run.parameters["go"])
    with run.owned():
        keep(run, f"result of {run.job.pk} by {run.attempt}")
        run.finish({"attempt": run.attempt})
        holding.touch()
        for _ in range(600):
            if go.exists():
                break
            time.sleep(0.05)


@job_task(queue="default", max_attempts=1, time_limit=1)
def deaf(run: Run) -> None:
    """One call that takes much longer than the time limit and cannot be interrupted."""
    time.sleep(300)


@job_task(queue="default", max_attempts=3)
def hoard(run: Run) -> None:
    """Take more and more memory, until the kernel ends it."""
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 16)
