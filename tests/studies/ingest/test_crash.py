"""An import killed (SIGKILL) at every step: nothing is half visible, and everything can be repaired.

A child process imports one group that takes every way through the store: two new slices, one of them bare, a duplicate,
a conflict, a cut file and one of another patient. A trace function kills the child before a line of the import, once
for every state of disk and database that the import goes through: after each change below MEDIA_ROOT and after each
statement to the database.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from django.db import connection

from portal.accounts.models import Project
from studies.ingest import checking, rows, staging, store
from studies.models import ImportBatch, Instance, Patient, Refusal, Series, Study
from tests import factories
from tests.forking import fork, wait

TRACED = {module.__file__ for module in (store, staging, rows)}


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


class Files:
    """What is sent, and what must come of it."""

    def __init__(self) -> None:
        held, first, second = factories.ct_datasets(3)
        changed = factories.ct_slice(0, SOPInstanceUID=held.SOPInstanceUID, StudyInstanceUID=held.StudyInstanceUID)
        stranger = factories.ct_slice(5, StudyInstanceUID=held.StudyInstanceUID, PatientID="P2")
        elsewhere = factories.ct_slice(0)
        self.held = factories.part10_bytes(held)
        bare = factories.part10_bytes(second)
        self.sent = [
            (factories.part10_bytes(first), "new.dcm"),
            (bare[bare.index(b"\x08\x00\x05\x00CS") :], "bare.dcm"),
            (self.held, "again.dcm"),
            (factories.part10_bytes(changed), "conflict.dcm"),
            (factories.part10_bytes(elsewhere), "elsewhere.dcm"),
            (factories.part10_bytes(first)[:-50], "cut.dcm"),
            (factories.part10_bytes(stranger), "stranger.dcm"),
        ]
        self.stored = {str(held.SOPInstanceUID), first.SOPInstanceUID, second.SOPInstanceUID, elsewhere.SOPInstanceUID}
        self.refused = {"conflict", "truncated", "patient_mismatch"}


def prepared() -> tuple[Project, ImportBatch, Files]:
    project, files = factories.ProjectFactory(), Files()
    batch = store.open_batch(project, ImportBatch.Source.UPLOAD)
    assert store.store_file(files.held, batch=batch).state == "stored"
    return project, batch, files


def import_all(batch: ImportBatch, files: Files) -> None:
    list(store.store_files(files.sent, batch=batch))


def steps(tmp_path: Path) -> list[int]:
    """Numbers of the traced lines before which disk or database have just changed."""
    project, batch, files = prepared()
    listing = tmp_path / "lines"

    def work() -> None:
        states: list[object] = []
        statements = 0

        def count(execute, *arguments):
            nonlocal statements
            statements += 1
            return execute(*arguments)

        def trace(frame, event, _):
            if frame.f_code.co_filename not in TRACED:
                return None
            if event == "line":
                names = [(path, path.stat().st_size) for path in sorted(staging.media().rglob("*")) if path.is_file()]
                states.append((tuple(names), statements))
            return trace

        with connection.execute_wrapper(count):
            sys.settrace(trace)
            import_all(batch, files)
            sys.settrace(None)
        changed = [k for k, state in enumerate(states) if k == 0 or state != states[k - 1]]
        listing.write_text(" ".join(map(str, [*changed, len(states) - 1])))

    assert wait(fork(work)) == 0
    forget(project)
    return [int(word) for word in listing.read_text().split()]


def killed_at(number: int, batch: ImportBatch, files: Files) -> None:
    def work() -> None:
        left = number

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename not in TRACED:
                return None
            if event == "line":
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace

        sys.settrace(trace)
        import_all(batch, files)

    status = wait(fork(work))
    assert os.WIFSIGNALED(status), f"line {number} was not reached"
    assert os.WTERMSIG(status) == signal.SIGKILL


def assert_whole(project: Project, when: str) -> None:
    """Whatever is visible is complete: rows, counts and bytes agree."""
    for study in Study.objects.filter(project=project):
        held = Instance.objects.filter(series__study=study)
        assert held.exists(), when
        assert study.number_of_instances == held.count(), when
        assert study.number_of_series == study.series.count(), when
        for series in study.series.all():
            assert series.number_of_instances == series.instances.count() > 0, when
    for instance in Instance.objects.filter(project=project):
        path = store.absolute_path(instance.file)
        assert checking.digest(path) == instance.sha256, when


def forget(project: Project) -> None:
    Refusal.objects.filter(batch__project=project).delete()
    Study.objects.filter(project=project).delete()
    Patient.objects.filter(project=project).delete()
    ImportBatch.objects.filter(project=project).delete()


@pytest.mark.django_db(transaction=True)
def test_killed_at_every_step(tmp_path, settings):
    numbers = steps(tmp_path)
    assert len(numbers) > 30  # the trace did see the import
    crashed_with_files = 0
    for number in numbers:
        when = f"killed at traced line {number}"
        settings.MEDIA_ROOT = tmp_path / f"media{number}"
        project, batch, files = prepared()
        killed_at(number, batch, files)

        assert_whole(project, when)
        report = checking.check(repair=True, deep=True, grace=0)
        assert report.left == [], when
        crashed_with_files += bool(report.findings)
        assert_whole(project, when)

        outcomes = list(store.store_files(files.sent, batch=batch))
        assert {o.code for o in outcomes if o.refused} == files.refused, when
        assert sum(not o.refused for o in outcomes) == 4, when
        held = set(Instance.objects.filter(project=project).values_list("sop_instance_uid", flat=True))
        assert held == files.stored, when
        assert_whole(project, when)
        again = checking.check(deep=True, grace=0)
        assert again.findings == [], when
        forget(project)
    assert crashed_with_files > len(numbers) / 2  # most crashes did leave something to repair
    assert not Series.objects.exists()
