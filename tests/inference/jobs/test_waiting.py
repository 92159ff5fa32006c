"""The progress bar of commands that wait."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from django.utils import timezone

from inference.jobs import services
from inference.jobs.models import Job
from inference.jobs.waiting import ProgressBar, follow
from tests.inference.jobs import sample_tasks

pytestmark = pytest.mark.django_db


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_says_state_progress_and_time_left():
    bar = ProgressBar(Terminal())
    job = Job(
        pk=7,
        state="running",
        progress=0.25,
        progress_text="epoch 5 of 20",
        started_at=timezone.now() - timedelta(seconds=30),
    )
    line = bar.line(job)
    assert line == "job 7 running [#######.....................]  25%, about 2 min left  epoch 5 of 20"
    job.state, job.cause = "failed", "No foreground."
    assert bar.line(job) == "job 7 failed: No foreground."


def test_without_a_terminal_lines_are_written_once():
    stream = io.StringIO()
    bar = ProgressBar(stream)
    for text in ("a", "a", "b"):
        bar(Job(pk=1, state="running", progress_text=text))
    bar(Job(pk=1, state="succeeded"))
    assert stream.getvalue() == "job 1 running a\njob 1 running b\njob 1 succeeded\n"


def test_ctrl_c_leaves_the_job_running(project, monkeypatch):
    job = services.submit(sample_tasks.mark, project=project, title="t", parameters={}, by=None)
    monkeypatch.setattr("inference.jobs.waiting.time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    stream = io.StringIO()
    with pytest.raises(SystemExit) as left:
        follow(job, stream)
    assert left.value.code == 130
    assert f"Job {job.pk} goes on without you" in stream.getvalue()
    job.refresh_from_db()
    assert (job.state, job.cancel_requested) == ("queued", False)
