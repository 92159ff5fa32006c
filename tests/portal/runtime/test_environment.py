"""Wrong values in the environment end the start with a sentence that names them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from portal.settings import environment as env
from tests.portal.runtime.processes import manage


@pytest.mark.parametrize("raw", ["abc", "0", "65536", "80.5", "-1"])
def test_a_wrong_number_names_itself_and_its_bounds(monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    monkeypatch.setenv("PORT", raw)
    with pytest.raises(ImproperlyConfigured, match=rf"PORT must be a whole number from 1 to 65535, not '?{raw}'?\."):
        env.number("PORT", 8000, at_least=1, at_most=65535)


def test_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", " ")
    assert env.number("PORT", 8000) == 8000
    monkeypatch.setenv("ALLOWED_HOSTS", "")
    assert env.words("ALLOWED_HOSTS", ["localhost"]) == ["localhost"]


@pytest.mark.parametrize(("raw", "value"), [("yes", True), ("0", False), ("TRUE", True), ("off", False)])
def test_switches(monkeypatch: pytest.MonkeyPatch, raw: str, value: bool) -> None:
    monkeypatch.setenv("SECURE_COOKIES", raw)
    assert env.switch("SECURE_COOKIES", not value) is value


def test_a_switch_that_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURE_COOKIES", "ja")
    with pytest.raises(ImproperlyConfigured, match="SECURE_COOKIES must be true or false, not 'ja'"):
        env.switch("SECURE_COOKIES", True)


@pytest.mark.parametrize("raw", ["0", "-3", "inf", "nan", "soon"])
def test_seconds_are_positive_and_finite(monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    monkeypatch.setenv("JOB_LEASE_SECONDS", raw)
    with pytest.raises(ImproperlyConfigured, match="JOB_LEASE_SECONDS must be a number of seconds"):
        env.seconds("JOB_LEASE_SECONDS", 30)


def test_a_database_address_with_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://a%40b:p%2Fw@db.example:5433/rea%20d?sslmode=require")
    parsed = env.database(lambda: None)
    assert parsed == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "rea d",
        "USER": "a@b",
        "PASSWORD": "p/w",
        "HOST": "db.example",
        "PORT": 5433,
        "OPTIONS": {"sslmode": "require"},
    }


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/n", "sqlite:///x", "postgres://u:geheim@h", "postgres://h:x1/n"])
def test_a_wrong_database_address_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL must be postgres://") as caught:
        env.database(lambda: None)
    assert "geheim" not in str(caught.value)


def test_without_an_address_the_running_service_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("CELERY_BROKER_URL")
    assert env.database(lambda: "postgres://u:p@127.0.0.1:7/x")["PORT"] == 7
    assert env.broker(lambda: "redis://127.0.0.1:8/0") == "redis://127.0.0.1:8/0"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PORT": "http"}, "PORT must be a whole number"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL must be one of"),
        ({"CELERY_BROKER_URL": "amqp://localhost"}, "CELERY_BROKER_URL must be redis://"),
        ({"MEDIA_ROOT": __file__}, "MEDIA_ROOT must be a folder"),
        ({"DJANGO_SETTINGS_MODULE": "portal.settings.prod"}, "DATABASE_URL is not set. In production"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_command_ends_with_the_sentence(tmp_path: Path, variables: dict[str, str], sentence: str) -> None:
    answer = manage(tmp_path, "check", **variables)
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: ")
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = env.kept_secret_key(tmp_path / "data")
    assert len(first) >= 50
    assert env.kept_secret_key(tmp_path / "data") == first
    assert stat.S_IMODE((tmp_path / "data" / "secret_key").stat().st_mode) == 0o600
    assert env.kept_secret_key(tmp_path / "other") != first
