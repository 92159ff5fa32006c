"""Which queues have a worker: each worker leaves a sign of life in Valkey every few seconds.

One sorted set for each queue holds worker name → time of the last sign, in the server's own time, so that the clocks
of the machines need not agree. Beside it each worker tells what it has to work with, under a key that runs out by
itself. Asking costs one round trip; asking the workers themselves (`inspect`) costs a second.
"""

import json
import logging
from typing import Any

import redis
from celery import bootsteps
from django.conf import settings

from portal.runtime import capacity

logger = logging.getLogger("portal.runtime")
SIGN_EVERY_SECONDS = 3.0
ALIVE_SECONDS = 15
FORGOTTEN_SECONDS = 24 * 3600
_FACTS = "readroom:worker:"
LISTENER = "dimse"  # the DICOM listener is no worker, but gives its signs in the same way


def _client() -> redis.Redis:
    return redis.Redis.from_url(settings.CELERY_BROKER_URL, socket_timeout=2, socket_connect_timeout=2)


def _key(queue: str) -> str:
    return f"readroom:alive:{queue}"


def workers_alive(queues: list[str]) -> dict[str, int]:
    """Queue → number of workers that gave a sign of life lately. Raises redis.RedisError without a broker."""
    with _client() as client:
        now = client.time()[0]
        pipeline = client.pipeline(transaction=False)
        for queue in queues:
            pipeline.zcount(_key(queue), now - ALIVE_SECONDS, "+inf")
        return dict(zip(queues, pipeline.execute(), strict=True))


def workers() -> list[dict[str, Any]]:
    """What every living worker tells of itself (`capacity.facts`, and its `name`), by name. Raises redis.RedisError."""
    with _client() as client:
        keys = sorted(client.scan_iter(match=f"{_FACTS}*", count=500))
        texts = client.mget(keys) if keys else []
    found = []
    for key, text in zip(keys, texts, strict=True):
        if text is not None:  # else it ran out between the two questions
            found.append({"name": key.decode().removeprefix(_FACTS), **json.loads(text)})
    return found


def give_sign(worker: str, queues: list[str], facts: dict[str, Any] | None = None) -> None:
    with _client() as client:
        now = client.time()[0]
        pipeline = client.pipeline(transaction=False)
        if facts is not None:
            pipeline.set(f"{_FACTS}{worker}", json.dumps(facts), ex=ALIVE_SECONDS)
        for queue in queues:
            pipeline.zadd(_key(queue), {worker: now})
            pipeline.zremrangebyscore(_key(queue), "-inf", now - FORGOTTEN_SECONDS)
        pipeline.execute()


def withdraw(worker: str, queues: list[str]) -> None:
    with _client() as client:
        client.delete(f"{_FACTS}{worker}")
        for queue in queues:
            client.zrem(_key(queue), worker)


def forget(machine: str) -> None:
    """Drop the signs that processes of this machine gave; those that run give another one within seconds.

    After a crash or a power cut the last signs of the dead would count until they are old.
    """
    with _client() as client:
        pipeline = client.pipeline(transaction=False)
        for queue in [*settings.QUEUES, LISTENER]:
            names = [name.decode() for name in client.zrange(_key(queue), 0, -1)]
            for name in names:
                if name.rpartition("@")[2] == machine:
                    pipeline.zrem(_key(queue), name)
                    pipeline.delete(f"{_FACTS}{name}")
        pipeline.execute()


class QueueLiveness(bootsteps.StartStopStep):
    """Part of a worker's consumer: gives the signs while the consumer takes messages, and withdraws at its end."""

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.timer: Any = None

    def start(self, parent: Any) -> None:
        queues = [queue.name for queue in parent.task_consumer.queues]
        concurrency = getattr(parent.controller, "concurrency", None) or 1
        self._sign(parent.hostname, queues, concurrency)
        self.timer = parent.timer.call_repeatedly(
            SIGN_EVERY_SECONDS, self._sign, (parent.hostname, queues, concurrency)
        )

    def stop(self, parent: Any) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        try:
            withdraw(parent.hostname, list(settings.QUEUES))
        except redis.RedisError:
            logger.warning("the broker is away; this worker's last sign of life runs out there")

    shutdown = stop

    def _sign(self, worker: str, queues: list[str], concurrency: int) -> None:
        try:
            give_sign(worker, queues, capacity.facts(queues, concurrency))
        except redis.RedisError:
            logger.warning("the broker does not take a sign of life")
