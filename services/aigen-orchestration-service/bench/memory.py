"""What one process needs with ten thousand unfinished requests and a thousand live streams."""

import asyncio
from pathlib import Path
from uuid import uuid4

import asyncpg

from bench.accept import PATH, order
from bench.lifecycles import ROLES
from bench.load import answer
from bench.parts import RABBITMQ, database, delete_names, service_process, unique_names


async def measure(*, requests: int, streams: int) -> dict[str, object]:
    """All roles in one process; no worker takes the jobs, so that nothing finishes."""
    names = unique_names(f"bench.{uuid4().hex[:8]}")
    try:
        async with (
            database() as url,
            service_process(url, engine=RABBITMQ, roles=ROLES, **names) as (port, told),
        ):
            pid = int(told["PID"])
            empty = _resident_mb(pid)
            await _create(port, requests)
            ids = await _some(url, streams)
            writers = [await _listen(port, request_id) for request_id in ids]
            await asyncio.sleep(3)
            found = {
                "requests": requests,
                "streams": len(writers),
                "at_start_mb": empty,
                "resident_mb": _resident_mb(pid),
            }
            for writer in writers:
                writer.close()
            return found
    finally:
        await asyncio.to_thread(delete_names, names)


async def _create(port: int, count: int) -> None:
    numbers = iter(range(count))

    async def use_one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            writer.write(order(number))
            assert await answer(reader) == 202
        writer.close()

    await asyncio.gather(*(use_one() for _ in range(32)))


async def _some(url: str, count: int) -> list[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT id FROM generation_requests WHERE deadline_at IS NOT NULL LIMIT $1", count
    )
    await connection.close()
    return [str(row["id"]) for row in rows]


async def _listen(port: int, request_id: str) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {PATH}/{request_id}/stream HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"data: ")  # the first state has come: the stream is live
    return writer


def _resident_mb(pid: int) -> float:
    """The part of the process that is in memory, as the system counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError("the system does not say how large the process is")
