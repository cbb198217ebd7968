"""Actions on RabbitMQ itself: inspect queues, publish messages, copy jobs, restart the broker."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import pika
import pika.exceptions

from tests.support.services import RABBITMQ, ensure_rabbitmq


def listening(names: Mapping[str, str]) -> bool:
    """Return whether both job queues have a consumer."""
    try:
        return all(
            _passive(names[f"AIGEN_RABBITMQ_{which}_QUEUE"])[1] > 0
            for which in ("SAMPLES", "FINAL")
        )
    except (pika.exceptions.AMQPError, OSError):
        return False


def waiting(names: Mapping[str, str]) -> int:
    """Return the ready messages of the job queues."""
    return sum(
        _passive(names[f"AIGEN_RABBITMQ_{which}_QUEUE"])[0] for which in ("SAMPLES", "FINAL")
    )


def _passive(queue: str) -> tuple[int, int]:
    connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
    try:
        found = connection.channel().queue_declare(queue, passive=True).method
        return int(found.message_count), int(found.consumer_count)
    finally:
        connection.close()


def publish(queue: str, body: bytes) -> None:
    """Publish a message directly to a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
    connection.channel().basic_publish("", queue, body)
    connection.close()


class Tap:
    """A queue that receives a copy of every job, to deliver it again or to inspect it."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
        self._channel = self._connection.channel()
        self._queue = f"{names['AIGEN_RABBITMQ_JOB_EXCHANGE']}.tap"
        self._channel.queue_declare(self._queue, auto_delete=True)
        for key in ("ai.generation.request", "ai.generation.final"):
            self._channel.queue_bind(self._queue, names["AIGEN_RABBITMQ_JOB_EXCHANGE"], key)

    def jobs(self) -> list[tuple[str, bytes]]:
        """Return routing key and body of each job since the last call."""
        found: list[tuple[str, bytes]] = []
        while True:
            method, _, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None:
                return found
            found.append((method.routing_key, body))

    def close(self) -> None:
        """Remove the queue."""
        self._channel.queue_delete(self._queue)
        self._connection.close()


def cannot_restart() -> str | None:
    """Return why the broker cannot be restarted from here, and the remedy; None if it can."""
    if os.environ.get("AIGEN_TEST_RABBITMQ_URL") or urlsplit(RABBITMQ).hostname not in {
        "127.0.0.1",
        "localhost",
    }:
        return "RabbitMQ is not on this machine: restart it by hand while `lifecycles` runs"
    if not (shutil.which("rabbitmqctl") and shutil.which("rabbitmq-server")) or os.geteuid() != 0:
        return "rabbitmqctl and rabbitmq-server are needed, as root"
    return None


def restart(*, seconds: float) -> None:
    """Stop the broker, wait, and start it again."""
    subprocess.run(["rabbitmqctl", "stop"], check=True, capture_output=True, timeout=120)
    time.sleep(seconds)
    ensure_rabbitmq()
