"""Health without login: what is missing is named, why it is missing is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import redis
from django.conf import settings
from django.db import DatabaseError
from django.test import Client

from portal.runtime import capacity, commands, health, liveness
from portal.runtime.data_folder import REPOSITORY
from portal.runtime.errors import RuntimeProblem
from portal.runtime.workers import ensure_workers

pytestmark = pytest.mark.django_db


@pytest.fixture
def workers():
    """Signs of life of a worker for each queue, taken back afterwards."""
    liveness.give_sign("test@machine", settings.QUEUES)
    yield
    liveness.withdraw("test@machine", settings.QUEUES)


def test_ready_with_everything(client: Client, workers) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert set(answer.json()["checks"]) == {"database", "broker"} | {f"worker {name}" for name in settings.QUEUES}


def test_a_queue_without_worker_is_named(client: Client, workers) -> None:
    liveness.withdraw("test@machine", ["train"])
    answer = client.get("/readyz")
    assert answer.status_code == 503
    failed = [name for name, state in answer.json()["checks"].items() if state != "ok"]
    assert failed == ["worker train"]


def test_the_dicom_listener_counts_where_it_is_to_listen(client: Client, workers, settings) -> None:
    settings.DIMSE_PORT = 11112
    assert client.get("/readyz").json()["checks"]["DICOM listener"] == "failed"
    liveness.give_sign("dimse@machine", [liveness.LISTENER])
    assert client.get("/readyz").status_code == 200
    liveness.withdraw("dimse@machine", [liveness.LISTENER])


def test_a_worker_that_fell_silent_does_not_count(workers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert liveness.workers_alive(["io"]) == {"io": 1}
    monkeypatch.setattr(liveness, "ALIVE_SECONDS", 0)
    time.sleep(1.1)
    assert liveness.workers_alive(["io"]) == {"io": 0}


def test_signs_of_a_crashed_start_do_not_count_for_the_next_one() -> None:
    """`manage.py up` begins with it; workers of other machines go on counting."""
    liveness.give_sign("train@here", ["train"], capacity.facts(["train"], 1))
    liveness.give_sign("train@elsewhere", ["train"], capacity.facts(["train"], 1))
    liveness.give_sign("dimse-7@here", [liveness.LISTENER])
    before = liveness.workers_alive(["train", liveness.LISTENER])
    liveness.forget("here")
    after = liveness.workers_alive(["train", liveness.LISTENER])
    assert {name: before[name] - after[name] for name in before} == {"train": 1, liveness.LISTENER: 1}
    assert [worker["name"] for worker in liveness.workers() if worker["name"].startswith("train@")] == [
        "train@elsewhere"
    ]
    liveness.withdraw("train@elsewhere", ["train"])


def test_a_web_process_takes_requests_when_its_pages_are_loaded() -> None:
    code = "import sys, portal.wsgi; sys.exit('portal.urls' not in sys.modules)"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings.test"}
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, timeout=180).returncode == 0


def test_without_broker(client: Client, settings) -> None:
    settings.CELERY_BROKER_URL = "redis://:secret@127.0.0.1:9/0"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks.pop("database") == "ok"
    assert set(checks.values()) == {"failed"}
    assert b"127.0.0.1" not in answer.content
    with pytest.raises(RuntimeProblem, match="broker does not answer"), ensure_workers(["train"]):
        pass


def test_without_database(client: Client, workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise DatabaseError('connection to server at "10.0.0.7" failed for user "readroom"')

    monkeypatch.setattr(health.connection, "cursor", away)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert [name for name, state in answer.json()["checks"].items() if state != "ok"] == ["database"]
    assert b"10.0.0.7" not in answer.content


def test_alive_needs_nothing(client: Client, settings) -> None:
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:9/0"
    assert client.get("/healthz").json() == {"alive": True}
    assert client.post("/healthz").status_code == 405


def test_the_answer_is_cheap(client: Client, workers, django_assert_num_queries) -> None:
    with django_assert_num_queries(1):
        client.get("/readyz")


def test_a_given_request_id_is_answered_and_a_strange_one_replaced(client: Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "trace-1234"}).headers["X-Request-ID"] == "trace-1234"
    strange = client.get("/healthz", headers={"X-Request-ID": 'a" x="y'}).headers["X-Request-ID"]
    assert len(strange) == 16
    assert strange.isalnum()


@pytest.mark.django_db(transaction=True)
def test_a_temporary_worker_comes_and_goes(tmp_path, settings) -> None:
    settings.DATA = tmp_path / "data"
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as broker:
        broker.delete("readroom:alive:train")
    with ensure_workers(["train"]) as made:
        assert made == ["train"]
        assert liveness.workers_alive(["train"]) == {"train": 1}
        (told,) = [worker for worker in liveness.workers() if worker["name"].startswith("temporary-")]
        assert (told["queues"], told["concurrency"]) == (["train"], 1)
        assert 10 << 20 < told["memory"] < told["memory_total"]
        assert told["memory_free"] < told["memory_total"]
        with ensure_workers(["train"]) as again:
            assert again == []
    assert liveness.workers_alive(["train"]) == {"train": 0}
    assert not [worker for worker in liveness.workers() if worker["name"].startswith("temporary-")]


def test_graphics_cards_are_read_from_the_drivers_table() -> None:
    # Two lines as nvidia-smi 550 prints them with these options, and one of a card that tells less.
    answer = "NVIDIA RTX A5000, 1204, 24564, 37\nTesla T4, 0, 15360, 0\nOrin (nvgpu), [N/A], [N/A], [N/A]\n"
    first, second, third = capacity.parse(answer)
    assert first == {"name": "NVIDIA RTX A5000", "memory_used": 1204 << 20, "memory_total": 24564 << 20, "busy": 37}
    assert second["memory_used"] == 0
    assert (third["memory_total"], third["busy"]) == (None, None)


@pytest.mark.parametrize("text", ["gpu=1", "infer=many", "infer", "train=-1", "train=1000"])
def test_a_wrong_number_of_workers_is_refused_in_words(text) -> None:
    with pytest.raises(RuntimeProblem, match="is no number of workers"):
        commands.worker_sizes(text)


def test_workers_are_started_as_asked_for(tmp_path) -> None:
    sizes = commands.worker_sizes("infer=2, train=0")
    made = {
        process.name: process.arguments for process in commands.one_machine("127.0.0.1", 8000, tmp_path, sizes=sizes)
    }
    assert "worker-train" not in made
    assert made["worker-infer"][made["worker-infer"].index("--concurrency") + 1] == "2"
    assert {"web", "worker-general", "beat"} <= made.keys()
