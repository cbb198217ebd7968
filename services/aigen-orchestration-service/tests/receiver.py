"""A receiver of webhooks: a real HTTP server on loopback that answers as the test says, and keeps what it got."""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import orjson
from standardwebhooks import Webhook

LOOPBACK = ("127.0.0.0/8",)
"""The value of AIGEN_WEBHOOK_ALLOWED_NETWORKS that lets tests call their receivers."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that came in."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """The event's id, the same at every try."""
        return self.headers["webhook-id"]

    @property
    def told(self) -> Any:
        """The body's value."""
        return orjson.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The body's value, when the independent verifier accepts it; else it raises."""
        return Webhook(secret).verify(self.body, self.headers)


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """Answers 204, or what stands next in `answers`: a status, a status with headers, or what to do with the line."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.answers: deque[int | tuple[int, str] | Script] = deque()
        self.otherwise: int | Script = 204
        self.connections = 0
        self._tls = tls
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    def types(self) -> list[str]:
        """The event types in the order in which they came."""
        return [call.told["type"] for call in self.calls]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._answer(await _call(reader), writer)
        self._open.discard(task)
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        self.calls.append(call)
        answer = self.answers.popleft() if self.answers else self.otherwise
        if callable(answer):
            await answer(writer)
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, "")
        extra = f"{headers}\r\n" if headers else ""
        writer.write(f"HTTP/1.1 {status} Said\r\n{extra}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()


async def _call(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Call(first.split()[1], headers, body)
