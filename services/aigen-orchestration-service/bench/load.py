"""A small HTTP/1.1 load generator: many keep-alive connections, one request in flight on each."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

_READ = 65_536


@dataclass(slots=True)
class Load:
    """What a run came to; times in seconds."""

    seconds: float = 0.0
    answers: int = 0
    wrong: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Right answers per second."""
        return (self.answers - self.wrong) / self.seconds

    def percentile(self, part: float) -> float:
        """The latency below which this part of the answers came, in milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send(
    port: int,
    make: Callable[[int], bytes],
    *,
    connections: int,
    seconds: float,
    expected: int = 202,
) -> Load:
    """Send for so long and count."""
    load = Load()
    numbers = iter(range(10**9))
    began = time.perf_counter()
    ends = began + seconds

    async def use_one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (sent := time.perf_counter()) < ends:
                writer.write(make(next(numbers)))
                status = await answer(reader)
                load.latencies.append(time.perf_counter() - sent)
                load.answers += 1
                load.wrong += status != expected
        finally:
            writer.close()

    await asyncio.gather(*(use_one() for _ in range(connections)))
    load.seconds = time.perf_counter() - began
    return load


async def answer(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; its body is read and dropped."""
    return (await _read(reader))[0]


async def read_json(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The body of the next answer.

    Raises:
        RuntimeError: it was not a good one.
    """
    status, body = await _read(reader)
    if not 200 <= status < 300:
        raise RuntimeError(f"answered {status}: {body!r}")
    found: dict[str, Any] = orjson.loads(body)
    return found


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    length = int(lower[start : lower.index(b"\r\n", start)])
    return int(head[9:12]), await reader.readexactly(length)
