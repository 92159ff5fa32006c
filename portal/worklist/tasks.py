"""What beat runs for the archive. Checking is not a job: nobody asked for it, and it starts over by itself."""

from __future__ import annotations

from celery import shared_task  # noqa: TID251
from django.db import connection

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
