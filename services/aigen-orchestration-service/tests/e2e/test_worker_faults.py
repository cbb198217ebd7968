"""Known failures of n8n, reproduced by a plain AMQP client: every request ends, credits are exact,
stalls are reported.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.running_system import Parts
from tests.support.services import RABBITMQ

PATIENT = {
    "AIGEN_WORKER_QUIET": "1",
    "AIGEN_SAMPLES_DEADLINE": "4",
    "AIGEN_RABBITMQ_DELIVERY_LIMIT": "3",
}

Taken = Callable[[BlockingChannel, int, dict[str, Any]], bool]
"""Handles one job; False stops the client."""


class Trigger(threading.Thread):
    """A workflow trigger as a thread: consumes a queue and handles every job as configured."""

    def __init__(self, queue: str, take: Taken, *, prefetch: int = 10) -> None:
        super().__init__(daemon=True)
        self._queue, self._take, self._prefetch = queue, take, prefetch
        self.connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
        self.taken: list[dict[str, Any]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Consume until stopped, or until the handler says so."""
        channel = self.connection.channel()
        channel.basic_qos(prefetch_count=self._prefetch)
        with contextlib.suppress(pika.exceptions.AMQPError):
            for method, _, body in channel.consume(self._queue, inactivity_timeout=0.05):
                if self._ended.is_set():
                    break
                if method is not None:
                    job = json.loads(body)
                    self.taken.append(job)
                    if not self._take(channel, method.delivery_tag, job):
                        break
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.connection.close()

    def cut(self) -> None:
        """Drop the connection during the work: the job is requeued while the work continues."""
        self.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 - from outside its thread

    def end(self) -> None:
        """Stop; unacknowledged messages are requeued."""
        self._ended.set()
        self.join(10)


def reported(job: dict[str, Any], kind: str, **said: Any) -> int:
    """Report over HTTP; return the status of the response."""
    body = {"generation_request_id": job["generation_request_id"], "job_id": job["job_id"], **said}
    headers = {"Authorization": f"Bearer {job['callback_token']}"}
    return httpx.post(
        job[f"callback_url_{kind}"], json=body, headers=headers, timeout=10
    ).status_code


def delivered(job: dict[str, Any]) -> int:
    """Return four valid samples."""
    samples = [
        {
            "asset_id": f"{job['job_id']}-{n}",
            "url": f"https://s/{n}.png",
            "resolution": job["sample_resolution"],
            "format": "png",
            "index": n,
        }
        for n in range(4)
    ]
    return reported(job, "sample_result", samples=samples)


def done_well(channel: BlockingChannel, tag: int, job: dict[str, Any]) -> bool:
    """Work, report and acknowledge."""
    delivered(job)
    channel.basic_ack(tag)
    return True


@pytest.fixture
async def parts(parts: Parts) -> Parts:
    """A serving process that detects stalls after a second, and a user with credits for one sample
    set.
    """
    await parts.serve(**PATIENT)
    await parts.grant("0.25", "payg")
    return parts


@contextlib.contextmanager
def trigger(parts: Parts, take: Taken) -> Iterator[Trigger]:
    """A running trigger on the samples queue."""
    started = Trigger(parts.names["AIGEN_RABBITMQ_SAMPLES_QUEUE"], take)
    started.start()
    try:
        yield started
    finally:
        started.end()


async def told(parts: Parts, kind: str) -> dict[str, Any]:
    """Wait until the stall is reported in queues and readiness."""
    ends = time.monotonic() + 20
    while True:
        stalled = (await parts.call("GET", "/operations/queues")).json()["stalled"]
        if found := [stall for stall in stalled if stall["kind"] == kind]:
            ready = (await parts.client.get(f"http://127.0.0.1:{parts.ports[0]}/ready")).json()
            assert kind in ready["checks"]["workers"]["detail"] or not found
            return dict(found[0])
        assert time.monotonic() < ends, stalled
        await asyncio.sleep(0.1)


async def paid_once(parts: Parts, request_id: str) -> dict[str, Any]:
    """Check that the samples were delivered and cost one sample set."""
    shown = await parts.until(request_id, "AWAITING_SELECTION")
    assert (shown["status"], shown["cost"]["samples"]) == ("AWAITING_SELECTION", "0.25")
    await parts.drained()
    statement = (await parts.call("GET", "/operations/users/user/statement")).json()
    assert (statement["balance"], statement["held"]) == ("0.00", "0.00")
    return shown


async def test_worker_acknowledging_early_and_dying_loses_no_request(parts: Parts) -> None:
    def acknowledged_and_lost(channel: BlockingChannel, tag: int, _job: dict[str, Any]) -> bool:
        channel.basic_ack(tag)
        return False

    with trigger(parts, acknowledged_and_lost) as first:
        request_id = await parts.create()
        assert (await told(parts, "never_started"))["jobs"] == 1
        first.join(10)
    with trigger(parts, done_well) as second:
        shown = await paid_once(parts, request_id)
    assert (shown["attempt"], len(second.taken)) == (1, 1)  # no worker took the first job


async def test_worker_requeueing_forever_is_stopped_by_the_delivery_limit(parts: Parts) -> None:
    def thrown_back(channel: BlockingChannel, tag: int, _job: dict[str, Any]) -> bool:
        channel.basic_nack(tag, requeue=True)
        return True

    with trigger(parts, thrown_back) as hot:
        request_id = await parts.create()
        failed = await parts.until(request_id, seconds=60)
    assert (failed["status"], failed["failure"]["code"]) == ("FAILED", "workflow_error")
    assert len(hot.taken) <= 3 * 5
    await parts.drained()
    statement = (await parts.call("GET", "/operations/users/user/statement")).json()
    assert (statement["balance"], statement["held"]) == ("0.25", "0.00")


async def test_worker_lost_acknowledgement_repeats_work_and_charges_once(parts: Parts) -> None:
    answers: list[int] = []

    def done_and_cut_off(_channel: BlockingChannel, _tag: int, job: dict[str, Any]) -> bool:
        answers.append(delivered(job))
        return False

    with trigger(parts, done_and_cut_off) as first:
        request_id = await parts.create()
        first.join(10)

    def done_again(channel: BlockingChannel, tag: int, job: dict[str, Any]) -> bool:
        answers.append(delivered(job))
        channel.basic_ack(tag)
        return True

    with trigger(parts, done_again) as second:
        await paid_once(parts, request_id)
        ends = time.monotonic() + 10
        while len(answers) < 2:
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
    assert [job["job_id"] for job in first.taken] == [job["job_id"] for job in second.taken]
    assert answers == [200, 200]


async def test_worker_cancelled_consumer_is_detected_by_waiting_jobs(parts: Parts) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
    channel = connection.channel()
    tag = channel.basic_consume(parts.names["AIGEN_RABBITMQ_SAMPLES_QUEUE"], lambda *_: None)
    channel.basic_cancel(tag)  # the connection stays open, so the consumer looks healthy
    request_id = await parts.create()
    assert (await told(parts, "no_consumer"))["jobs"] == 1
    connection.close()
    with trigger(parts, done_well):
        await paid_once(parts, request_id)


async def test_worker_restarted_midway_repeats_jobs_and_delivers_one_result(parts: Parts) -> None:
    started = threading.Event()
    saved = threading.Event()
    answers: list[int] = []

    def half_done(_channel: BlockingChannel, _tag: int, job: dict[str, Any]) -> bool:
        reported(job, "started")
        started.set()
        saved.wait(20)
        answers.append(delivered(job))
        return False

    with trigger(parts, half_done) as before:
        request_id = await parts.create()
        await asyncio.to_thread(started.wait, 20)
        before.cut()
        with trigger(parts, done_well) as after:
            await paid_once(parts, request_id)
            saved.set()
            before.join(15)
    assert len(after.taken) <= 1
    assert answers in ([200], [409])


async def test_worker_silent_after_its_start_is_detected_and_the_job_retried(parts: Parts) -> None:
    def begun(channel: BlockingChannel, tag: int, job: dict[str, Any]) -> bool:
        reported(job, "started")
        channel.basic_ack(tag)
        return False

    with trigger(parts, begun) as first:
        request_id = await parts.create()
        assert (await told(parts, "silent"))["jobs"] == 1
        first.join(10)
    with trigger(parts, done_well):
        assert (await paid_once(parts, request_id))["attempt"] == 2


async def test_worker_prefetch_filled_with_garbage_is_detected(parts: Parts) -> None:
    def kept(_channel: BlockingChannel, _tag: int, _job: dict[str, Any]) -> bool:
        return True

    with trigger(parts, kept):
        request_id = await parts.create()
        await told(parts, "never_started")
    with trigger(parts, done_well):
        await paid_once(parts, request_id)
