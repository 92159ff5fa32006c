"""Guessed passwords: locks that grow, for accounts and addresses, on the page and for Basic alike."""

from __future__ import annotations

import base64
import re
import threading
from datetime import timedelta
from typing import ClassVar

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from portal.accounts import guard
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import FailedSignIns
from tests.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def limits(settings):
    settings.SIGN_IN_FAILURES, settings.SIGN_IN_FAILURES_ADDRESS = 3, 6


def sign_in(client, name="alice", password="wrong", address="192.0.2.1"):
    return client.post(reverse("login"), {"username": name, "password": password}, REMOTE_ADDR=address)


def basic(client, name="alice", password="wrong", address="192.0.2.1"):
    words = base64.b64encode(f"{name}:{password}".encode()).decode()
    return client.get("/dicomweb/studies", HTTP_AUTHORIZATION=f"Basic {words}", REMOTE_ADDR=address)


def later(seconds: float) -> None:
    """As if so much time had passed since every failure."""
    for row in FailedSignIns.objects.all():
        if row.last_at is not None:
            row.last_at -= timedelta(seconds=seconds)
        if row.locked_until is not None:
            row.locked_until -= timedelta(seconds=seconds)
        row.save()


def lock_seconds(kind="account") -> float:
    row = FailedSignIns.objects.get(kind=kind)
    return (row.locked_until - timezone.now()).total_seconds()


def test_an_account_is_locked_after_the_third_failure_and_even_the_right_password_waits(client):
    UserFactory(username="alice")
    assert [sign_in(client).status_code for _ in range(3)] == [200] * 3
    locked = sign_in(client, password=PASSWORD, address="192.0.2.2")
    assert locked.status_code == 429
    assert 25 <= int(locked["Retry-After"]) <= 30
    assert "locked" in locked.content.decode()
    later(31)
    assert sign_in(client, password=PASSWORD).status_code == 302
    assert not FailedSignIns.objects.filter(kind="account").exists()


def test_each_failure_after_a_lock_locks_for_twice_as_long_up_to_an_hour(client):
    UserFactory(username="alice")
    for number in range(12):
        sign_in(client, address=f"192.0.2.{number}")
        if number >= 2:
            assert lock_seconds() == pytest.approx(min(30 * 2 ** (number - 2), 3600), abs=5)
            later(lock_seconds() + 1)


def test_what_is_refused_while_locked_makes_the_lock_no_longer(client):
    UserFactory(username="alice")
    for number in range(20):
        sign_in(client, address=f"192.0.2.{number}")
    assert FailedSignIns.objects.get(kind="account").failures == 3
    assert lock_seconds() <= 30


def test_an_address_is_locked_whatever_names_it_tries(client):
    UserFactory(username="alice")
    for number in range(6):
        sign_in(client, name=f"name{number}")
    assert sign_in(client, password=PASSWORD).status_code == 429
    assert sign_in(client, password=PASSWORD, address="198.51.100.1").status_code == 302


def test_ones_own_sign_ins_do_not_wash_an_address_clean(client):
    UserFactory(username="alice")
    UserFactory(username="mallory")
    for number in range(5):
        sign_in(client, name=f"name{number}")
        sign_in(Client(), name="mallory", password=PASSWORD)
    sign_in(client, name="name5")
    assert sign_in(Client(), name="mallory", password=PASSWORD).status_code == 429


def test_old_failures_are_forgotten(client):
    UserFactory(username="alice")
    sign_in(client)
    sign_in(client)
    later(13 * 3600)
    sign_in(client)
    assert FailedSignIns.objects.get(kind="account").failures == 1


@pytest.mark.parametrize("ask", [sign_in, basic])
def test_names_that_nobody_bears_are_answered_and_locked_alike(client, ask):
    UserFactory(username="alice")
    UserFactory(username="gone", is_active=False)

    def answers(name: str, n: int) -> list[tuple]:
        found = [ask(Client(), name=name, address=f"192.0.2.{n}{k}") for k in range(5)]
        return [(one.status_code, clean(one.content.decode())) for one in found]

    known = answers("alice", 1)
    assert known == answers("nobody", 2) == answers("gone", 3)
    assert known[0] != known[-1]


def clean(page: str) -> str:
    return re.sub(r'value="[^"]*"|in \d+ seconds', "", page)


class Counting(MD5PasswordHasher):
    hashed: ClassVar[list[str]] = []

    def encode(self, password, salt):
        self.hashed.append(password)
        return super().encode(password, salt)


def test_a_name_nobody_bears_costs_as_many_questions_and_hashes_as_one_that_exists(client, settings):
    """Time itself is not measured: what takes it is the same."""
    UserFactory(username="alice")
    settings.PASSWORD_HASHERS = [f"{__name__}.Counting"]
    counts = {}
    for name in ("alice", "nobody"):
        Counting.hashed.clear()
        with CaptureQueriesContext(connection) as queries:
            sign_in(Client(), name=name, address=f"192.0.2.{len(counts)}")
        counts[name] = (len(queries), len(Counting.hashed))
    assert counts["alice"] == counts["nobody"]
    assert counts["alice"][1] == 1


def test_basic_is_locked_like_the_page_and_together_with_it(client):
    user = member(ProjectFactory(), username="alice")
    assert [basic(client).status_code for _ in range(2)] == [401] * 2
    assert sign_in(client).status_code == 200
    locked = basic(client, password=PASSWORD)
    assert locked.status_code == 429
    assert int(locked["Retry-After"]) > 20
    assert "Try again" in locked.json()["detail"]
    guard.unlock(user)
    assert basic(client, password=PASSWORD).status_code == 200


def test_a_remembered_password_of_basic_is_no_way_to_guess_another(client):
    member(ProjectFactory(), username="alice")
    assert basic(client, password=PASSWORD).status_code == 200
    for number in range(4):
        basic(client, address=f"192.0.2.{number}")
    assert basic(client, password="other").status_code == 429
    assert basic(client, password=PASSWORD).status_code == 200, "the program that knows it goes on"


def test_failures_locks_and_unlocking_are_in_the_trail_without_what_was_typed(client):
    alice, root = UserFactory(username="alice"), UserFactory(is_superuser=True)
    for _ in range(4):
        sign_in(client)
    sign_in(client, name="my password by mistake")
    rows = AuditEvent.objects.order_by("id").values_list("action", "object_id", "outcome", "address")
    pk = str(alice.pk)
    assert list(rows)[:5] == [
        ("login.failure", pk, "failed", "192.0.2.1"),
        ("login.failure", pk, "failed", "192.0.2.1"),
        ("login.locked", pk, "denied", "192.0.2.1"),
        ("login.failure", pk, "failed", "192.0.2.1"),
        ("login.failure", pk, "denied", "192.0.2.1"),
    ]
    assert AuditEvent.objects.get(object_kind="unknown").object_id.isalnum()
    with connection.cursor() as cursor:
        for table in ("audit_auditevent", "accounts_failedsignins"):
            cursor.execute(f"SELECT bool_or({table}::text ~* 'mistake') FROM {table}")
            assert cursor.fetchone() == (False,)
    client.force_login(root)
    assert "Locked" in client.get(reverse("users")).content.decode()
    client.post(reverse("user_unlock", args=[alice.pk]))
    assert AuditEvent.objects.get(action="login.unlock").user == root
    assert sign_in(Client(), password=PASSWORD, address="192.0.2.9").status_code == 302


def test_an_administrator_unlocks_an_address(client):
    UserFactory(username="alice")
    for number in range(6):
        sign_in(client, name=f"name{number}")
    client.force_login(UserFactory(is_superuser=True))
    assert "192.0.2.1" in client.get(reverse("users")).content.decode()
    client.post(reverse("address_unlock"), {"address": "192.0.2.1"})
    assert sign_in(Client(), password=PASSWORD).status_code == 302


def test_the_only_administrator_is_let_in_again_by_a_command(client, capsys):
    UserFactory(username="alice", is_superuser=True)
    for _ in range(3):
        sign_in(client)
    call_command("unlock", "alice")
    assert sign_in(client, password=PASSWORD).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_many_attempts_at_once_get_no_more_passwords_looked_at(settings):
    settings.SIGN_IN_FAILURES_ADDRESS = 1000
    UserFactory(username="alice")
    admitted: list[int] = []

    def attempt() -> None:
        try:
            guard.admit("alice", "192.0.2.1")
            admitted.append(1)
        except guard.Locked:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=attempt) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 3
