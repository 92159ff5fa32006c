"""An import killed (SIGKILL) at every step: nothing is half visible, and everything can be repaired.

A child process imports two groups that take every way through the store: two new slices, one of them bare, a duplicate,
a conflict, a cut file and one of another patient; then two slices that only join a series. A trace function kills the
child before a line of the import, once for every state of disk and database that the import goes through: after each
change below MEDIA_ROOT and after each statement to the database.
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
        held, first, second, *later = factories.ct_datasets(5)
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
        self.joining = [(factories.part10_bytes(dataset), "later.dcm") for dataset in later]
        self.stored = {dataset.SOPInstanceUID for dataset in (held, first, second, elsewhere, *later)}
        self.refused = {"conflict", "truncated", "patient_mismatch"}


def prepared(project: Project, files: Files) -> ImportBatch:
    batch = store.open_batch(project, ImportBatch.Source.UPLOAD)
    assert store.store_file(files.held, batch=batch).state == "stored"
    return batch


def import_all(batch: ImportBatch, files: Files) -> list[store.Outcome]:
    outcomes = list(store.store_files(files.sent, batch=batch))
    # as STOW-RS does: a summary without a row of its own so far
    joining = ImportBatch(project=batch.project, source=ImportBatch.Source.STOW)
    return outcomes + list(store.store_files(files.joining, batch=joining))


def steps(project: Project, files: Files, tmp_path: Path) -> list[int]:
    """Numbers of the traced lines before which disk or database have just changed."""
    batch = prepared(project, files)
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
    forget()
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
    instances = list(Instance.objects.filter(project=project))
    series = {row.pk: row for row in Series.objects.filter(study__project=project)}
    for study in Study.objects.filter(project=project):
        of_study = [row for row in instances if series[row.series_id].study_id == study.pk]
        assert study.number_of_instances == len(of_study) > 0, when
        assert study.number_of_series == sum(row.study_id == study.pk for row in series.values()), when
    for row in series.values():
        assert row.number_of_instances == sum(one.series_id == row.pk for one in instances) > 0, when
    for instance in instances:
        path = store.absolute_path(instance.file)
        assert checking.digest(path) == instance.sha256, when
    batches = list(ImportBatch.objects.filter(project=project))
    assert sum(batch.stored for batch in batches) == len(instances), when
    assert sum(batch.refused for batch in batches) == Refusal.objects.filter(batch__project=project).count(), when


def forget() -> None:
    """Everything that an import writes, without looking for what else may refer to it: nothing does."""
    for model in (Refusal, Instance, Series, Study, Patient, ImportBatch):
        model.objects.all()._raw_delete(connection.alias)


@pytest.mark.django_db(transaction=True)
def test_killed_at_every_step(tmp_path, settings):
    project, files = factories.ProjectFactory(), Files()
    numbers = steps(project, files, tmp_path)
    assert len(numbers) > 40  # the trace did see the import
    crashed_with_files = 0
    for number in numbers:
        when = f"killed at traced line {number}"
        settings.MEDIA_ROOT = tmp_path / f"media{number}"
        batch = prepared(project, files)
        killed_at(number, batch, files)

        assert_whole(project, when)
        report = checking.check(repair=True, deep=True, grace=0)
        assert report.left == [], when
        crashed_with_files += bool(report.findings)
        assert_whole(project, when)

        outcomes = import_all(batch, files)
        assert {o.code for o in outcomes if o.refused} == files.refused, when
        assert sum(not o.refused for o in outcomes) == 6, when
        held = set(Instance.objects.filter(project=project).values_list("sop_instance_uid", flat=True))
        assert held == files.stored, when
        assert_whole(project, when)
        again = checking.check(deep=True, grace=0)
        assert again.findings == [], when
        forget()
    assert crashed_with_files > len(numbers) / 2  # most crashes did leave something to repair
    assert not Series.objects.exists()
