"""A worker process that died with a job on it: the worker's main process tells at once, and by name.

Without it the job waits for its lease to run out, and nobody knows any more what happened to the process.
"""

from __future__ import annotations

import logging
import re
import signal
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.worker import request
from django.db import Error as DatabaseError
from django.db import connection

from inference.jobs import services
from portal.runtime.kernel import memory_kills

logger = logging.getLogger(__name__)
_SIGNAL = re.compile(r"signal (\d+)")


_kills_before = memory_kills()


class Request(request.Request):
    """A message on its way through the worker's main process."""

    def on_failure(self, exc_info: Any, *arguments: Any, **keywords: Any) -> Any:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError) and self.worker_pid is not None:
            self._tell(str(error))
        return super().on_failure(exc_info, *arguments, **keywords)

    def _tell(self, status: str) -> None:
        global _kills_before
        found = _SIGNAL.search(status)
        number = int(found[1]) if found else None
        kills = memory_kills()
        short_of_memory = number == signal.SIGKILL and kills > _kills_before
        _kills_before = kills
        try:
            services.process_died(
                f"{self.hostname} pid {self.worker_pid}", signal=number, short_of_memory=short_of_memory
            )
        except DatabaseError as problem:  # the lease runs out, and the reaper does the same with fewer words
            logger.warning("the end of process %s could not be written (%s)", self.worker_pid, type(problem).__name__)
        finally:
            connection.close()  # the main process forks: no child may inherit it
