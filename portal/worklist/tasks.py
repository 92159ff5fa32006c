"""Background work of the archive's pages."""

from __future__ import annotations

from typing import Any

from celery import shared_task  # noqa: TID251
from django.db import connection

from inference.jobs.errors import JobError
from inference.jobs.run import Run
from inference.jobs.task import job_task
from studies.deid import services as deid
from studies.deid.errors import DeidError
from studies.deid.models import Export
from studies.duplicates import services as duplicates
from studies.quality import services

AT_ONCE = 40  # series in one turn; the next turn goes on
_LOCK = 0x51C0  # any fixed number: one worker looks at a time


@shared_task(name="portal.worklist.check_quality", ignore_result=True)
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
