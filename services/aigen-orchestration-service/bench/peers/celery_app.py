"""The lifecycle on Celery, RabbitMQ and PostgreSQL: an API process that sends tasks, and a worker
that does them.

Tasks go through a quorum queue, persistent and with publisher confirms, and are acknowledged late,
so a task whose worker died is delivered again; the guarded writes make that harmless. A task makes,
stores and tells, and is acknowledged when the broker has confirmed the event. Between the commit of
an order and the confirm of its task a crash would lose the task, so the API sends tasks again for
orders that have waited for a minute. Results, events, gossip, mingle and remote control are off, as
they are where nobody reads them. Tuning, tried in short runs on a busy machine, most of them in
turn: a pool of 16 threads was faster than one of 8 and than four prefork processes, and those
faster than two or eight. The API sends tasks with eight threads, because Celery's publishing
blocks; 8, 16 and 32 did not differ beyond the noise. The API asks over asyncpg, the worker, which
is not asynchronous, over psycopg 3. Gevent was not tried.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import kombu
import orjson
import psycopg_pool
from celery import Celery, Task, signals
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from fastapi import FastAPI
from starlette.responses import Response

from bench.peers import order, web

_THREADS = web.setting("threads", 1)
_CONCURRENCY = web.setting("concurrency", 16)
_PUBLISHERS = web.setting("publishers", 8)
_SWEEP_SECONDS = 30
_AGAIN: dict[str, Any] = {
    "autoretry_for": (Exception,),
    "retry_kwargs": {"max_retries": 10, "countdown": 0},
}
jobs = Celery("generation", broker=web.RABBITMQ)
jobs.conf.update(
    task_queues=[
        kombu.Queue(
            web.QUEUE,
            kombu.Exchange(web.QUEUE),
            web.QUEUE,
            queue_arguments={"x-queue-type": "quorum"},
        )
    ],
    task_default_queue=web.QUEUE,
    task_default_exchange=web.QUEUE,
    task_default_routing_key=web.QUEUE,
    task_default_delivery_mode="persistent",
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_pool_limit=_PUBLISHERS,
    worker_prefetch_multiplier=web.setting("prefetch", 4),
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
)
# No task has an ETA, so the 28 queues which Celery declares for that beside a quorum queue are not
# needed.
DelayedDelivery.include_if = lambda _self, _consumer: False
books = web.Books()
publishers = ThreadPoolExecutor(_PUBLISHERS)
pools: list[psycopg_pool.ConnectionPool] = []
"""The one pool of a worker's process."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The books are open while the API serves."""
    async with books.open(10):
        sweeping = asyncio.create_task(_sweep())
        yield
        sweeping.cancel()


async def _sweep() -> None:
    """Send tasks again that may never have been sent."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        for row in await books.rows(
            """SELECT id::text, state FROM requests WHERE state IN ('PENDING', 'PENDING_FINAL')
               AND updated_at < now() - interval '1 minute' LIMIT 100"""
        ):
            await _send(make_samples if row["state"] == "PENDING" else make_final, row["id"])


async def _send(task: Task, request_id: str) -> None:
    await asyncio.get_running_loop().run_in_executor(
        publishers, lambda: task.apply_async((request_id,))
    )


app = FastAPI(lifespan=lifespan)


@app.post(order.PATH)
async def create(body: order.CreateRequest) -> Response:
    """Charge, store, queue."""
    request_id, brief = str(uuid4()), body.model_dump_json(exclude_none=True)
    if not await books.ask(
        "SELECT accept_request($1::text::uuid, $2, $3, $4)",
        request_id,
        body.user_id,
        brief,
        order.SAMPLES_PRICE,
    ):
        return web.reply(402, request_id, "no credits")
    await _send(make_samples, request_id)
    return web.reply(202, request_id, "PENDING")


@app.post(order.PATH + "/{request_id}/select-sample")
async def select_sample(request_id: UUID, body: order.SelectSample) -> Response:
    """Choose, charge, queue."""
    said = await books.ask(
        "SELECT select_sample($1, $2, $3)", request_id, body.selected_sample_id, order.FINAL_PRICE
    )
    if said != "chosen":
        return web.reply(web.refusal(said), request_id, said)
    await _send(make_final, str(request_id))
    return web.reply(202, request_id, "PENDING_FINAL")


@jobs.task(name="make_samples", **_AGAIN)
def make_samples(request_id: str) -> None:
    """The stub's first stage."""
    time.sleep(order.STUB_SECONDS)
    samples = order.four_samples(request_id)
    user_id = _ask(
        "SELECT deliver_samples(%s, %s::jsonb)", request_id, orjson.dumps(samples).decode()
    )
    _tell(order.event(order.SAMPLES_READY, request_id, user_id, samples))


@jobs.task(name="make_final", **_AGAIN)
def make_final(request_id: str) -> None:
    """The stub's second stage."""
    time.sleep(order.STUB_SECONDS)
    user_id = _ask(
        "SELECT deliver_final(%s, %s::jsonb)",
        request_id,
        orjson.dumps(order.final(request_id)).decode(),
    )
    _tell(order.event(order.COMPLETED, request_id, user_id, []))


@signals.worker_process_init.connect
def _open(**_: object) -> None:
    size = _CONCURRENCY if _THREADS else 1
    pools.append(
        psycopg_pool.ConnectionPool(
            web.DATABASE, min_size=size, kwargs={"autocommit": True}, open=True
        )
    )


def _ask(statement: str, *values: object) -> str:
    with pools[0].connection() as connection:
        return str(connection.execute(statement, values).fetchone()[0])


def _tell(event: dict[str, Any]) -> None:
    """Publish and wait for the confirm, over the connection which this process publishes tasks
    on.
    """
    with jobs.producer_or_acquire() as producer:
        producer.publish(
            orjson.dumps(event),
            exchange=web.TOPIC,
            routing_key=event["eventType"],
            delivery_mode=2,
            content_type="application/json",
            content_encoding="utf-8",
            retry=True,
        )


def work() -> None:
    """The worker process; with prefork its children too."""
    if _THREADS:
        _open()
    jobs.worker_main(
        [
            "worker",
            "--pool",
            "threads" if _THREADS else "prefork",
            "--concurrency",
            str(_CONCURRENCY),
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            "WARNING",
            "-O",
            "fair",
        ]
    )


if __name__ == "__main__":
    match sys.argv[1]:
        case "api":
            web.serve(app)
        case "worker":
            work()
        case "prepare":
            """Nothing: the worker declares its queue."""
