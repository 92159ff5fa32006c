"""Things that go wrong, done to real processes: each ends in one result or one clear failure, and the queue goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from django.db import DatabaseError, connection

from inference.jobs import services
from inference.jobs.errors import IllegalTransition
from inference.jobs.models import Job
from portal.accounts.services import issue_token
from portal.runtime import commands
from portal.runtime.data_folder import DataFolder
from portal.runtime.kernel import available_memory, memory_kills, total_memory
from portal.runtime.logfiles import LogFile
from studies.models import Patient
from tests import forking
from tests import services as embedded
from tests.inference.jobs import sample_tasks
from tests.inference.jobs.test_worker import ended, lines, running, submit, until
from tests.jobs import claimed, execute
from tests.worker import ROOT, _environment

pytestmark = pytest.mark.django_db(transaction=True)


def results(job: Job) -> int:
    return Patient.objects.filter(patient_id__startswith=f"result of {job.pk}").count()


def finished(job: Job, seconds: float = 90) -> Job:
    """Wait while the reaper does its rounds, as beat has it do."""
    deadline = time.monotonic() + seconds
    while not job.ended:
        assert time.monotonic() < deadline, f"job still {job.state} after {seconds} s"
        services.reap()
        time.sleep(0.1)
        job.refresh_from_db()
    return job


def queue_goes_on(project) -> None:
    assert finished(submit(sample_tasks.add, project, numbers=[40, 2])).result == {"sum": 42}


# A worker's process dies


@pytest.mark.parametrize(
    ("at", "attempts"), [("claimed", 2), ("body", 2), ("stored", 2), ("finishing", 2), ("finished", 1)]
)
def test_a_process_killed_in_any_phase_leaves_one_result(celery_worker_process, project, at, attempts):
    job = ended(submit(sample_tasks.die, project, at=at))
    assert (job.state, job.result, results(job)) == ("succeeded", {"attempt": attempts}, 1)
    died = job.log.filter(level="event", text__contains="process died (signal 9)")
    assert died.count() == attempts - 1
    queue_goes_on(project)


def test_a_process_killed_at_every_attempt_is_a_failure_that_names_the_signal(celery_worker_process, project):
    job = ended(submit(sample_tasks.die, project, at="body", attempts=9))
    assert (job.state, job.error_class, job.attempt, results(job)) == ("failed", "WorkerDied", 2, 0)
    assert "2 times" in job.cause
    assert "signal 9" in job.cause
    assert job.next_step
    queue_goes_on(project)


def test_a_body_that_never_looks_up_ends_with_its_process(celery_worker_process, project):
    job = ended(submit(sample_tasks.deaf, project))
    assert (job.state, job.error_class) == ("failed", "TimeLimitReached")
    assert "time limit of 1 s" in job.cause
    queue_goes_on(project)


# Memory


@contextlib.contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """A memory cgroup, to whose `cgroup.procs` processes are added. Skips where none can be made."""
    kinds = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for root, name in kinds:
        group = root / f"readroom-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / name).exists():
                continue
            (group / name).write_text(str(limit))
            yield group / "cgroup.procs"
            return
        finally:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.05)
    pytest.skip("no memory cgroup can be made here: it takes root and a writable /sys/fs/cgroup")


def test_a_process_that_the_kernel_ends_for_want_of_memory_is_named_so(start_worker, no_other_worker, project):
    with little_memory(600 << 20) as processes:
        worker = start_worker(queues="default")
        main = psutil.Process(worker.popen.pid)
        for process in [main, *main.children(recursive=True)]:
            processes.write_text(str(process.pid))
        before = memory_kills()
        job = ended(submit(sample_tasks.hoard, project))
        assert memory_kills() > before  # it was the kernel
        assert (job.state, job.error_class, job.attempt) == ("failed", "OutOfMemory", 1)
        assert job.cause.startswith("The machine ran out of memory: its kernel ended the job's process.")
        assert "smaller patch or batch" in job.next_step
        queue_goes_on(project)
        worker.kill()


def test_the_kernel_s_counters_are_read_from_both_kinds_of_cgroups(tmp_path):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 12\noom_kill 3\n")
    (proc / "self/cgroup").write_text("4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n0::/scope\n")
    (cgroups / "memory/docker/a").mkdir(parents=True)
    (cgroups / "memory/docker/a/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (cgroups / "scope").mkdir()
    (cgroups / "scope/memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 5\noom_group_kill 0\n")
    assert memory_kills(proc, cgroups) == 10
    assert memory_kills(tmp_path / "elsewhere", cgroups) == 0


@pytest.mark.parametrize(
    ("line", "files"),
    [
        (
            "0::/a",
            {
                "a/memory.max": "1000000\n",
                "a/memory.current": "700000\n",
                "a/memory.stat": "anon 5\ninactive_file 200000\n",
            },
        ),
        (
            "4:memory:/a",
            {
                "memory/a/memory.limit_in_bytes": "1000000\n",
                "memory/a/memory.usage_in_bytes": "700000\n",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 200000\n",
            },
        ),
    ],
)
def test_free_memory_is_what_the_container_has_left(tmp_path, line, files):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path / "proc", tmp_path) == 500_000
    assert total_memory(tmp_path / "proc", tmp_path) == 1_000_000
    (tmp_path / "proc/self/cgroup").write_text("0::/without-limit\n")
    assert available_memory(tmp_path / "proc", tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert total_memory(tmp_path / "proc", tmp_path) == psutil.virtual_memory().total


# Cancel at any time


def test_a_cancel_that_comes_while_the_job_ends_is_refused_in_words(celery_worker_process, project, tmp_path):
    holding, go = tmp_path / "holding", tmp_path / "go"
    job = submit(sample_tasks.hold, project, holding=str(holding), go=str(go))
    until(holding.exists)
    refused: list[str] = []

    def cancel() -> None:
        try:
            services.cancel(job, by=None)
        except IllegalTransition as error:
            refused.append(error.cause)
        finally:
            connection.close()

    thread = threading.Thread(target=cancel)
    thread.start()
    time.sleep(0.3)  # it waits for the row
    go.touch()
    thread.join()
    ended(job)
    assert refused == ["This job has ended already (succeeded)."]
    assert (job.state, results(job), job.cancel_requested) == ("succeeded", 1, False)


def test_cancels_at_random_moments_end_every_job_once(celery_worker_process, project, tmp_path):
    dice = random.Random(3)
    jobs = [submit(sample_tasks.mark, project, file=str(tmp_path / str(n)), seconds=0.15) for n in range(10)]
    for job in dice.sample(jobs, len(jobs)):
        time.sleep(dice.uniform(0, 0.15))
        with contextlib.suppress(IllegalTransition):
            services.cancel(job, by=None)
    for number, job in enumerate(jobs):
        ended(job)
        marks = [line.split()[0] for line in lines(tmp_path / str(number))]
        assert (job.state, marks) in [
            ("cancelled", []),
            ("cancelled", ["start"]),
            ("succeeded", ["start", "end"]),
        ]
    assert "cancelled" in {job.state for job in jobs}


# Restarts


@pytest.fixture
def restart_database() -> Iterator[Callable[[], None]]:
    started = embedded._services
    if started is None or "postgres" not in started.names:
        pytest.skip("the tests use a PostgreSQL that is not theirs to restart (DATABASE_URL)")
    file = DataFolder().postgres / "postmaster.pid"

    def restart() -> None:
        before = int(file.read_text().split()[0])
        os.kill(before, signal.SIGINT)  # a fast shutdown, as at `systemctl restart`; the keeper starts it again

        def back() -> bool:
            connection.close()
            with contextlib.suppress(OSError, ValueError, IndexError, DatabaseError):
                return int(file.read_text().split()[0]) != before and Job.objects.count() >= 0
            return False

        until(back)

    yield restart
    connection.close()


def test_restart_of_the_database_while_jobs_wait_run_and_end(
    restart_database, celery_worker_process, project, tmp_path
):
    file, holding, go = tmp_path / "marks", tmp_path / "holding", tmp_path / "go"
    going = submit(sample_tasks.mark, project, file=str(file), seconds=1)
    ending = submit(sample_tasks.hold, project, holding=str(holding), go=str(go))
    waiting = submit(sample_tasks.add, project, numbers=[1, 2])  # both processes are taken
    until(lambda: running(going))
    until(holding.exists)
    restart_database()
    go.touch()
    assert finished(waiting).result == {"sum": 3}
    assert (finished(going).state, going.result) == ("succeeded", {"attempt": 2})
    assert (finished(ending).state, ending.result, results(ending)) == ("succeeded", {"attempt": 2}, 1)
    restart_database()  # nothing runs: the worker finds its way back by itself
    queue_goes_on(project)


def test_restart_of_the_broker_while_jobs_wait_and_run(broker, celery_worker_process, project, tmp_path, settings):
    settings.JOB_RESEND_SECONDS = 1
    files = [tmp_path / str(number) for number in range(4)]
    jobs = [submit(sample_tasks.mark, project, file=str(file), seconds=1) for file in files]
    until(lambda: running(jobs[0]))
    broker.stop()
    time.sleep(0.5)
    broker.start()
    for job, file in zip(jobs, files, strict=True):
        assert finished(job).state == "succeeded"
        assert [line.split()[0] for line in lines(file)] == ["start", "end"]
    queue_goes_on(project)


class Web:
    """The portal's own web process."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        made = commands.web("127.0.0.1", self.port, workers=1)
        self.process = subprocess.Popen(made.command, cwd=ROOT, env=_environment(), start_new_session=True)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_whoever_follows_a_job_misses_no_line_when_the_web_process_restarts(project, engineer):
    job = claimed(submit(sample_tasks.mark, project, file="", seconds=0))
    token = issue_token(user=engineer)
    web = Web()
    seen: list[dict] = []

    def look() -> bool:
        after = seen[-1]["id"] if seen else 0
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{web.port}/api/jobs/{job.pk}/log/?after={after}",
                headers={"Authorization": f"Token {token}"},
                timeout=5,
            )
        except httpx.TransportError:
            return False
        assert answer.status_code == 200, answer.text
        seen.extend(answer.json())
        return True

    try:
        until(look)
        for number in range(5):
            services.write_log(job.pk, job.claim, f"line {number}")
        look()
        web.kill()
        for number in range(5, 10):
            services.write_log(job.pk, job.claim, f"line {number}")
        assert not look()
        web.start()
        until(look)
        services.write_log(job.pk, job.claim, "line 10")
        look()
    finally:
        web.kill()
    assert [line["text"] for line in seen if line["level"] == "info"] == [f"line {number}" for number in range(11)]


# A log that cannot be written


def test_a_job_does_not_fail_because_the_worker_s_log_is_on_a_full_disk(no_other_worker, project):
    job = submit(sample_tasks.add, project, numbers=[1, 2])

    def work() -> None:
        full = os.open("/dev/full", os.O_WRONLY)  # every write fails with ENOSPC
        os.dup2(full, 1)
        os.dup2(full, 2)
        handler = logging.StreamHandler(open(2, "w", closefd=False))  # noqa: SIM115
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
        execute(job, sample_tasks.add.body)

    assert forking.wait(forking.fork(work)) == 0
    assert ended(job, 10).result == {"sum": 3}


def test_the_supervisor_goes_on_where_a_log_file_cannot_be_written(tmp_path):
    path = tmp_path / "worker.log"
    path.symlink_to("/dev/full")
    log = LogFile(path)
    child = subprocess.Popen([sys.executable, "-c", "print('x\\n' * 5000)"], stdout=subprocess.PIPE)
    thread = log.follow(child.stdout)
    assert child.wait(20) == 0  # nobody left it waiting at a full pipe
    thread.join(20)
    assert not thread.is_alive()
