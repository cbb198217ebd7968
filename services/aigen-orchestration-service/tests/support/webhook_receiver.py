"""A webhook receiver: an HTTP server on loopback with configured responses that records its
calls.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from standardwebhooks import Webhook

from tests.support.loopback_server import LoopbackServer

LOOPBACK = ("127.0.0.0/8",)
"""Value of AIGEN_WEBHOOK_ALLOWED_NETWORKS that allows these receivers."""


@dataclass(frozen=True, slots=True)
class Call:
    """One received call."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """The id of the event, the same in every attempt."""
        return self.headers["webhook-id"]

    @property
    def told(self) -> Any:
        """The parsed body."""
        return orjson.loads(self.body)

    def verified(self, secret: str) -> Any:
        """Return the parsed body if the independent verifier accepts it; raise otherwise."""
        return Webhook(secret).verify(self.body, self.headers)


Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Receiver(LoopbackServer):
    """Responds 204, or the next of `answers`: a status, a status with headers, or a function on the
    connection.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.calls: list[Call] = []
        self.answers: deque[int | tuple[int, str] | Script] = deque()
        self.otherwise: int | Script = 204
        self.connections = 0

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}/hook"

    def types(self) -> list[str]:
        """The event types in the order received."""
        return [call.told["type"] for call in self.calls]

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._answer(await _call(reader), writer)

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
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers["content-length"]))
    return Call(first.split()[1], headers, body)
