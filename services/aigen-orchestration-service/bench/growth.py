"""What stored requests cost: the same calls on an empty database and on one with a million finished
requests.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx

from bench.accept import PATH, USERS, order
from bench.load import Load, send
from bench.parts import database, service_process

MONTHS = 6

# A real lifecycle is written once by the service; every stored request is a copy of it with ids,
# times and users of its own. Ids are UUIDv7 of their time, as the service makes them.
_GENERATE = """
CREATE TEMP TABLE copies AS
SELECT n, at, 'user-' || (n % $2) AS user_id, r.id AS of,
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
           || substr(md5(n::text), 1, 3)
        || 'a' || substr(md5(n::text), 4, 15))::uuid AS id
FROM (SELECT n, now() - interval '1 day' - n * (make_interval(days => 30 * $3) / $1::float8) AS at
      FROM generate_series(1, $1) n) made, generation_requests r
"""


async def measure(
    *, stored: int, rounds: int, seconds: float, log: Callable[[str], None] = print
) -> dict[str, object]:
    """Interleaved: accepts and lists on both databases; then what lists and timelines cost on the
    full one.
    """
    async with database() as empty, database() as full:
        filled = await fill(full, stored, log)
        async with (
            service_process(empty) as (small_port, _),
            service_process(full) as (large_port, _),
        ):
            pairs = [
                (await _accepts(small_port, seconds), await _accepts(large_port, seconds))
                for _ in range(rounds)
            ]
            lists = [
                (await _list(small_port, ""), await _list(large_port, "")) for _ in range(rounds)
            ]
            user = await _list(large_port, "&user_id=user-17")
            deep = await _deep(large_port)
    ratios = sorted(large.per_second / small.per_second for small, large in pairs[1:])
    return {
        **filled,
        "accept_per_second_empty": round(statistics.median(small.per_second for small, _ in pairs)),
        "accept_per_second_full": round(statistics.median(large.per_second for _, large in pairs)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "list_ms_empty": round(statistics.median(small for small, _ in lists), 2),
        "list_ms_full": round(statistics.median(large for _, large in lists), 2),
        "list_of_a_user_ms": round(user, 2),
        "list_from_the_middle_ms": round(deep, 2),
        "wrong": sum(load.wrong for pair in pairs for load in pair),
    }


async def fill(url: str, stored: int, log: Callable[[str], None]) -> dict[str, object]:
    """Store so many finished requests; how long that took, what they weigh, and what cleaning up
    after them costs.
    """
    async with service_process(url, roles="api,dispatcher,results,relay,sweeper") as (port, _):
        await _one_lifecycle(port)
    connection = await asyncpg.connect(url)
    began = time.perf_counter()
    for month in range(MONTHS + 2):
        await connection.execute(
            """SELECT ensure_events_partition(m::date, (m + interval '1 month')::date)
               FROM (SELECT date_trunc('month', now())
                   - make_interval(months => $1) AS m) months""",
            month,
        )
    await connection.execute("SET synchronous_commit = off")
    await connection.execute(_GENERATE, stored, USERS, MONTHS, timeout=900)
    for table, set_by_copy in _COPIED.items():
        count = await _copy(connection, table, set_by_copy)
        log(f"  {table}: {count:,} rows after {time.perf_counter() - began:.0f} s")
    await connection.execute("DROP TABLE copies")
    filled = time.perf_counter() - began
    vacuum = [
        await _vacuum_seconds(connection, table)
        for table in ("generation_requests", "generation_events")
    ]
    weight = await connection.fetchval("SELECT pg_database_size(current_database())")
    await connection.close()
    return {
        "stored": stored,
        "fill_seconds": round(filled),
        "bytes_per_request": weight // stored,
        "vacuum_requests_seconds": vacuum[0],
        "vacuum_timeline_seconds": vacuum[1],
    }


_SHIFTED = "t.{0} - (SELECT r.created_at FROM generation_requests r WHERE r.id = c.of) + c.at"
_COPIED: dict[str, dict[str, str]] = {
    "generation_events": {"request_id": "c.id", "seq": None, "at": _SHIFTED.format("at")},  # type: ignore[dict-item]
    "holds": {
        "key": "replace(t.key, c.of::text, c.id::text)",
        "request_id": "c.id",
        "user_id": "c.user_id",
        "began_at": _SHIFTED.format("began_at"),
        "month": "date_trunc('month', c.at)::date",
    },
    "usage_log": {
        "id": None,
        "request_id": "c.id",
        "user_id": "c.user_id",
        "at": _SHIFTED.format("at"),
    },  # type: ignore[dict-item]
    "generation_requests": {
        "id": "c.id",
        "user_id": "c.user_id",
        "created_at": "c.at",
        "updated_at": _SHIFTED.format("updated_at"),
    },
}
"""The tables of a finished request, and what differs from copy to copy; None: the table makes it.
"""


async def _copy(connection: Any, table: str, set_by_copy: dict[str, str | None]) -> int:
    columns = [
        row["attname"]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
            " AND NOT attisdropped",
            table,
        )
        if set_by_copy.get(row["attname"], "") is not None
    ]
    values = ", ".join(set_by_copy.get(name) or f"t.{name}" for name in columns)
    key = "id" if table == "generation_requests" else "request_id"
    done = await connection.execute(
        f"""INSERT INTO {table} ({", ".join(columns)}) SELECT {values}
            FROM copies c JOIN {table} t ON t.{key} = c.of""",  # noqa: S608 - names from the catalogue and this module
        timeout=1800,
    )
    return int(done.rpartition(" ")[2])


async def _vacuum_seconds(connection: Any, table: str) -> float:
    began = time.perf_counter()
    await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=900)
    return round(time.perf_counter() - began, 1)


async def _one_lifecycle(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        body = json.loads(order(0).partition(b"\r\n\r\n")[2])
        request = (await client.post(PATH, json=body)).raise_for_status().json()
        await _until(client, request["id"], "AWAITING_SELECTION")
        shown = (await client.get(f"{PATH}/{request['id']}")).json()["samples"]
        choice = {"selected_sample_id": shown[0]["asset_id"]}
        (await client.post(f"{PATH}/{request['id']}/select-sample", json=choice)).raise_for_status()
        await _until(client, request["id"], "COMPLETED")
        await asyncio.sleep(1)  # the relay pays what is owed, and writes that into the timeline


async def _until(client: httpx.AsyncClient, request_id: str, status: str) -> None:
    async with asyncio.timeout(60):
        while (await client.get(f"{PATH}/{request_id}")).json()["status"] != status:
            await asyncio.sleep(0.05)


async def _accepts(port: int, seconds: float) -> Load:
    return await send(port, order, connections=32, seconds=seconds)


async def _list(port: int, query: str) -> float:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        return await _median_ms(lambda: client.get(f"{PATH}?limit=20{query}"))


async def _deep(port: int) -> float:
    """A page that begins in the middle of all that is stored."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        query = "created_to=" + time.strftime(
            "%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - 86_400 * 15 * MONTHS)
        )
        return await _median_ms(lambda: client.get(f"{PATH}?limit=20&{query}"))


async def _median_ms(call: Callable[[], Awaitable[httpx.Response]]) -> float:
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        (await call()).raise_for_status()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)
