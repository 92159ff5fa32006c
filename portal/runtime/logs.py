"""Structured logs: one JSON object a line, with the request, user and job that the line belongs to.

Patients' names and identifiers must not reach a log. So paths are logged without their query string, and an exception
with its class and the places it passed, but without its text: the text of a foreign exception may quote what it choked
on. Our own errors are written for people and carry no patient data, so theirs is kept.
"""

import contextlib
import contextvars
import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any

OUR_PACKAGES = ("portal.", "studies.", "inference.")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_context: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("log_context", default=_NOTHING)


@contextlib.contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Put fields such as `request_id`, `user_id`, `job_id` on every line that is logged inside."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def current_fields() -> Mapping[str, Any]:
    """What `log_context` has put on the lines of this moment."""
    return _context.get()


class JsonFormatter(logging.Formatter):
    """`logger.info("stored", extra={"study_id": 7})` → `{"time": …, "level": "INFO", …, "study_id": 7}`."""

    def __init__(self, messages: bool = False) -> None:
        super().__init__()
        self.messages = messages

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **_context.get(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info and record.exc_info[0]:
            error = record.exc_info[1]
            line["error"] = self.describe(error)
            if error is not None and (cause := error.__cause__ or error.__context__):
                line["cause"] = self.describe(cause)
            line["trace"] = _places(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False, default=lambda value: type(value).__name__)

    def describe(self, error: BaseException | None) -> str:
        """An exception's class, with its text where that is known to be harmless."""
        kind = type(error)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return f"{name}: {error}" if self.messages or name.startswith(OUR_PACKAGES) else name


class NoRoutine(logging.Filter):
    """Beat tells of every task that it sends, every few seconds, for ever."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Scheduler: Sending due task")


_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "request", "taskName", "data", "stack"}


def _places(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]


def _message(record: logging.LogRecord) -> str:
    """The message; Celery's lines about a task lose the result or the exception's text that they end with."""
    task = getattr(record, "data", None)
    if record.name == "celery.app.trace" and isinstance(task, dict):
        return f"task {task.get('name')} {task.get('description', 'succeeded')}"
    return record.getMessage()


def logging_settings(level: str = "INFO", messages: bool = False) -> dict[str, Any]:
    """Django's LOGGING: everything goes to standard error; whoever started the process keeps it."""
    level = level.upper()
    if level not in LEVELS:
        from django.core.exceptions import ImproperlyConfigured

        raise ImproperlyConfigured(f"LOG_LEVEL must be one of {', '.join(LEVELS)}, not {level!r}.")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "portal.runtime.logs.JsonFormatter", "messages": messages}},
        "filters": {"no_routine": {"()": "portal.runtime.logs.NoRoutine"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "portal": {"level": level},
            "studies": {"level": level},
            "inference": {"level": level},
            "celery": {"level": level},
            "celery.beat": {"filters": ["no_routine"]},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            # Its lines quote values of the files that it reads, names of patients among them.
            "pydicom": {"level": "CRITICAL", "propagate": False},
            # Without Django's own handlers, which mail and print whole requests.
            "django": {"handlers": [], "level": "WARNING", "propagate": True},
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
            # RequestLog writes one line for each request; this one would repeat it with the path.
            "django.request": {"level": "ERROR"},
        },
    }
