"""Which queues have a worker: each worker leaves a sign of life in Valkey every few seconds.

One sorted set for each queue holds worker name → time of the last sign, in the server's own time, so that the clocks
of the machines need not agree. Asking costs one round trip; asking the workers themselves (`inspect`) costs a second.
"""

import logging
from typing import Any

import redis
from celery import bootsteps
from django.conf import settings

logger = logging.getLogger("portal.runtime")
SIGN_EVERY_SECONDS = 3.0
ALIVE_SECONDS = 15
FORGOTTEN_SECONDS = 24 * 3600
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


def give_sign(worker: str, queues: list[str]) -> None:
    with _client() as client:
        now = client.time()[0]
        pipeline = client.pipeline(transaction=False)
        for queue in queues:
            pipeline.zadd(_key(queue), {worker: now})
            pipeline.zremrangebyscore(_key(queue), "-inf", now - FORGOTTEN_SECONDS)
        pipeline.execute()


def withdraw(worker: str, queues: list[str]) -> None:
    with _client() as client:
        for queue in queues:
            client.zrem(_key(queue), worker)


class QueueLiveness(bootsteps.StartStopStep):
    """Part of a worker's consumer: gives the signs while the consumer takes messages, and withdraws at its end."""

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.timer: Any = None

    def start(self, parent: Any) -> None:
        queues = [queue.name for queue in parent.task_consumer.queues]
        self._sign(parent.hostname, queues)
        self.timer = parent.timer.call_repeatedly(SIGN_EVERY_SECONDS, self._sign, (parent.hostname, queues))

    def stop(self, parent: Any) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        try:
            withdraw(parent.hostname, list(settings.QUEUES))
        except redis.RedisError:
            logger.warning("the broker is away; this worker's last sign of life runs out there")

    shutdown = stop

    def _sign(self, worker: str, queues: list[str]) -> None:
        try:
            give_sign(worker, queues)
        except redis.RedisError:
            logger.warning("the broker does not take a sign of life")
