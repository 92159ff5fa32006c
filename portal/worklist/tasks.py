"""What the workers do for the archive: looking through what came in, and importing pictures that were uploaded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from django.db import connection

from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task, periodic
from studies.cohorts.errors import CohortError
from studies.cohorts.splits import DEFAULT_FRACTIONS
from studies.deid import services as deid
from studies.deid.errors import DeidError
from studies.deid.models import Export
from studies.duplicates import services as duplicates
from studies.ingest.image_labels import Plan
from studies.ingest.images import import_images, tables_in
from studies.ingest.staging import media
from studies.ingest.unpacking import unpack
from studies.models import ImportBatch
from studies.quality import services
from studies.tabular.problems import TableError

AT_ONCE = 40  # series in one turn; the next turn goes on
_LOCK = 0x51C0  # any fixed number: one worker looks at a time
LOGGED = 200  # refused rows in the log of a job; the report of the import has all
DESIGNS: dict[str, dict[str, Any] | None] = {
    "": None,
    "shares": {"fractions": dict(DEFAULT_FRACTIONS)},
    "folds": {"folds": 5, "fractions": {}},
}


@periodic("portal.worklist.check_quality")
def check_quality() -> None:
    """Look at the series that came in and are at rest: their quality, and whether they look like others."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            return
        try:
            services.check_pending(limit=AT_ONCE)
            duplicates.compare_pending(limit=AT_ONCE)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


@job_task(queue="io", max_attempts=2)
def export_deidentified(run: Run) -> dict[str, Any]:
    """Write the de-identified copies of an export."""
    export = Export.objects.select_related("project", "cohort").get(pk=run.parameters["export"])

    def report(fraction: float, text: str) -> None:
        run.check()
        run.progress(fraction, text)

    try:
        deid.make(export, report)
        run.log(f"{export.report['profile']}: {export.size:,} bytes, SHA-256 {export.sha256}")
    except DeidError as error:
        raise JobError(error.cause, error.next_step) from error
    return {"export": export.pk, "bytes": export.size}


@job_task(queue="io", max_attempts=3)
def import_pictures(run: Run) -> dict[str, Any]:
    """An uploaded archive of pictures with a table of labels. Run again it goes on where it stopped."""
    said = run.parameters
    archive = media(said["file"])
    if not archive.is_file():
        raise JobError("The uploaded archive is gone.", "Upload it again.")
    folder = Path(tempfile.mkdtemp(prefix="pictures-", dir=archive.parent))
    try:
        run.progress(0, "unpacking")
        left_out = unpack(archive, folder)
        for _, refused in left_out[:LOGGED]:
            run.log(f"left out an entry of the archive: {refused.reason}", "warning")
        tables = tables_in(folder)
        if not tables:
            raise JobError(
                "The archive holds no table (CSV or XLSX) that names the pictures.", "Add one, and upload it again."
            )
        summary = _imported(run, tables[0], said)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not summary["stored"] and not summary["duplicate"]:
        raise JobError(
            f"Nothing was imported: each of {len(summary['refused'])} rows was refused.",
            "See the reasons in the log, correct the table, and upload it again.",
        )
    archive.unlink(missing_ok=True)
    if summary["problem"]:
        run.log(summary["problem"], "warning")
    told = ("stored", "duplicate", "batch", "cohort", "reference", "classes", "frozen", "problem")
    return {key: summary[key] for key in told} | {"refused": len(summary["refused"])}


def _imported(run: Run, table: Path, said: dict[str, Any]) -> dict[str, Any]:
    def progress(done: int, total: int) -> None:
        run.check()
        run.progress(0.05 + 0.85 * done / max(total, 1), f"picture {done} of {total}")

    try:
        summary = import_images(
            Plan(
                project=run.job.project,
                labels=table,
                cohort=said["cohort"],
                modality=said["kind"],
                body_part=said["body_part"],
                synthetic=said["synthetic"],
                design=DESIGNS.get(said["split"]),
                by=run.job.created_by,
                source=ImportBatch.Source.UPLOAD,
            ),
            progress=progress,
        )
    except TableError as error:
        raise JobError(error.cause, "Correct the table, and upload it again.") from error
    except CohortError as error:
        raise JobError(error.cause, error.next_step) from error
    # Not the file's name, which may name a patient; the report of the import has it.
    for refused in summary.refused[:LOGGED]:
        run.log(f"row {refused.row}: {refused.reason}", "warning")
    run.log(f"{summary.stored} stored, {summary.duplicate} there already, {len(summary.refused)} refused")
    return summary.as_json()
