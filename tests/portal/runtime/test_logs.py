"""Log lines are JSON, say whose request or job they belong to, and hold nothing of a patient."""

from __future__ import annotations

import json
import logging
import sys

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction

from inference.errors import TrainingError
from portal.runtime.logfiles import LogFile
from portal.runtime.logs import JsonFormatter, log_context

NAME = "Doe^Jane"


def line(record: logging.LogRecord, **options: bool) -> dict:
    return json.loads(JsonFormatter(**options).format(record))


def record(message: str = "stored", level: int = logging.INFO, name: str = "studies.ingest", **extra: object):
    made = logging.getLogger(name).makeRecord(name, level, "f.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def failed(error: Exception, name: str = "portal.request") -> logging.LogRecord:
    try:
        raise error
    except Exception:
        return logging.LogRecord(name, logging.ERROR, "f.py", 1, "it failed", (), sys.exc_info())


def test_a_line_carries_context_and_extras() -> None:
    with log_context(request_id="abc", user_id=7), log_context(job_id=9):
        made = line(record(study_id=3))
    assert made["message"] == "stored"
    assert made["level"] == "INFO"
    assert (made["request_id"], made["user_id"], made["job_id"], made["study_id"]) == ("abc", 7, 9, 3)
    assert "job_id" not in line(record())


def test_the_text_of_a_foreign_exception_stays_out() -> None:
    made = line(failed(ValueError(f"invalid literal: {NAME!r}")))
    assert made["error"] == "builtins.ValueError"
    assert NAME not in json.dumps(made)
    assert any("test_logs.py" in place for place in made["trace"])


def test_the_text_of_our_own_errors_is_kept() -> None:
    made = line(failed(TrainingError("The cohort has one patient.", "Add studies.")))
    assert "The cohort has one patient." in made["error"]


def test_a_cause_is_named_without_its_text() -> None:
    try:
        try:
            raise KeyError(NAME)
        except KeyError as inner:
            raise TrainingError("No label.", "Add one.") from inner
    except TrainingError as outer:
        made = line(failed(outer))
    assert made["cause"] == "builtins.KeyError"
    assert NAME not in json.dumps(made)


def test_a_developer_may_ask_for_the_texts() -> None:
    assert line(failed(ValueError("why")), messages=True)["error"] == "builtins.ValueError: why"


@pytest.mark.django_db
def test_a_violated_constraint_does_not_tell_the_value() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE people (name text UNIQUE)")
        cursor.execute("INSERT INTO people VALUES (%s)", [NAME])
        with pytest.raises(IntegrityError) as caught, transaction.atomic():
            cursor.execute("INSERT INTO people VALUES (%s)", [NAME])
    assert NAME in str(caught.value)  # so the exception itself would have told
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)
    assert NAME not in json.dumps(line(failed(caught.value)))


def test_celery_does_not_tell_the_text_either() -> None:
    made = record(
        f"Task t[1] raised unexpected: ValueError('{NAME}')",
        logging.ERROR,
        "celery.app.trace",
        data={"name": "t", "description": "raised unexpected", "exc": f"ValueError('{NAME}')"},
    )
    assert line(made)["message"] == "task t raised unexpected"
    assert NAME not in json.dumps(line(made))


def test_files_are_turned_over_and_private(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.runtime.logfiles.MAX_BYTES", 1000)
    log = LogFile(tmp_path / "logs" / "web.log")
    for number in range(200):
        log.write(f"line {number:04d}")
    log.close()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["web.log", "web.log.1", "web.log.2"]
    assert (tmp_path / "logs" / "web.log").read_text().endswith("line 0199\n")
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "logs").iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "logs").iterdir())
