"""What the peers' processes share: their settings, their HTTP process, their books and telling over
RabbitMQ.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import orjson
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response

from bench.peers import order

DATABASE = os.environ.get("PEER_DATABASE_URL", "")
RABBITMQ = os.environ.get("PEER_RABBITMQ_URL", "")
TOPIC = os.environ.get("PEER_TOPIC", "")
"""The topic exchange of lifecycle events."""
QUEUE = os.environ.get("PEER_QUEUE", "")
"""The name of the jobs' queue on RabbitMQ, for who has one there."""


def setting(name: str, default: int) -> int:
    """A number to tune with, from `PEER_<NAME>`; the default is the one that was found best."""
    return int(os.environ.get(f"PEER_{name.upper()}", default))


def serve(app: FastAPI) -> None:
    """As fast as uvicorn goes: uvloop, httptools, no access log."""
    app.add_api_route("/ready", lambda: None)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


def reply(status: int, request_id: object, said: str) -> Response:
    """An answer that the framework does not validate once more."""
    return Response(
        orjson.dumps({"id": request_id, "status": said}), status, media_type="application/json"
    )


def refusal(said: str | None) -> int:
    """The HTTP status of what a procedure refuses."""
    return 409 if said == "conflict" else 402


def api(books: "Books", pool: int, *, accept: str, select: str) -> FastAPI:
    """The API of a peer that queues the job in the statement which writes the state and the
    charge.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with books.open(pool):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post(order.PATH)
    async def create(body: order.CreateRequest) -> Response:
        request_id, brief = str(uuid4()), body.model_dump_json(exclude_none=True)
        if not await books.ask(accept, request_id, body.user_id, brief, order.SAMPLES_PRICE):
            return reply(402, request_id, "no credits")
        return reply(202, request_id, "PENDING")

    @app.post(order.PATH + "/{request_id}/select-sample")
    async def select_sample(request_id: UUID, body: order.SelectSample) -> Response:
        said = await books.ask(select, str(request_id), body.selected_sample_id, order.FINAL_PRICE)
        if said in {"conflict", "no credits"}:
            return reply(refusal(said), request_id, said)
        return reply(202, request_id, "PENDING_FINAL")

    return app


class Books:
    """The stored procedures, asked over asyncpg, which keeps statements prepared."""

    def __init__(self) -> None:
        self._pool: asyncpg.Pool | None = None

    @asynccontextmanager
    async def open(self, size: int) -> AsyncIterator[None]:
        """A pool of so many connections, without the round trip of a reset at each return."""
        async with asyncpg.create_pool(
            DATABASE, min_size=2, max_size=size, reset=_keep
        ) as self._pool:
            yield

    async def ask(self, statement: str, *values: object) -> Any:
        """The first value of the first row; one statement is one transaction."""
        assert self._pool is not None
        return await self._pool.fetchval(statement, *values)

    async def rows(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """All rows."""
        assert self._pool is not None
        return await self._pool.fetch(statement, *values)


async def _keep(_: object) -> None:
    """Nothing to reset: no statement leaves session state behind."""


class Announcer:
    """Publishes events, persistent and with the broker's confirm, over one connection of this event
    loop.
    """

    def __init__(self) -> None:
        self._exchange: aio_pika.abc.AbstractExchange | None = None

    async def open(self) -> None:
        """Connect; comes back by itself after a lost connection."""
        connection = await aio_pika.connect_robust(RABBITMQ)
        channel = await connection.channel(publisher_confirms=True)
        self._exchange = await channel.get_exchange(TOPIC, ensure=False)

    async def tell(self, event: dict[str, Any]) -> None:
        """Publish and wait for the confirm."""
        assert self._exchange is not None
        message = aio_pika.Message(
            orjson.dumps(event),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._exchange.publish(message, routing_key=event["eventType"], mandatory=False)
