"""Who runs: how each contestant is started on a database and queues of its own, and how its books
are checked.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pika
import psutil

from bench.parts import RABBITMQ, delete_names, empty_database, free_port, unique_names, wait_ready
from bench.peers import books, order
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.storage.database import Database
from tests.support.invariants import violations
from tests.support.processes import service_environment

SERVICE = Path(__file__).parents[2]
PEERS_PYTHON = SERVICE.parents[1] / ".venv-peers" / "bin" / "python"
CHARGE = order.SAMPLES_PRICE + order.FINAL_PRICE
_STOP_SECONDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started contestant; `settled`: nothing is owed any more; `wrong`: what its books have
    wrong, in words.
    """

    port: int
    topic: str
    database: str
    processes: Sequence[int]
    stub: Sequence[int]
    settled: Callable[[], Awaitable[bool]]
    wrong: Callable[[int], Awaitable[list[str]]]


@asynccontextmanager
async def ours(
    log: Path, stub_seconds: float, parts: Sequence[str], *, source: Path = SERVICE
) -> AsyncIterator[Running]:
    """Our service of this source, one process for each of `parts`, and the stub worker that
    reports to it over HTTP.
    """
    names = unique_names(f"bench.{uuid4().hex[:8]}")
    try:
        async with empty_database() as url, _connection(url) as connection:
            told = {"AIGEN_ENGINE_URL": RABBITMQ, "BENCH_STUB_SECONDS": str(stub_seconds), **names}
            with _service(url, log, parts, told, source) as (port, environment, served):
                await wait_ready(port, served[0])
                await connection.execute(
                    _FUND_OURS, [order.user(number) for number in range(order.USERS)], order.FUNDS
                )
                queues = [
                    names["AIGEN_RABBITMQ_SAMPLES_QUEUE"],
                    names["AIGEN_RABBITMQ_FINAL_QUEUE"],
                ]
                with process(
                    [sys.executable, "-m", "bench.stub_worker", str(port), *queues],
                    environment,
                    log,
                ) as stub:
                    yield Running(
                        port=port,
                        topic=names["AIGEN_RABBITMQ_TOPIC_EXCHANGE"],
                        database=url,
                        processes=[running.pid for running in served],
                        stub=[stub.pid],
                        settled=lambda: connection.fetchval(
                            "SELECT NOT EXISTS (SELECT FROM outbox)"
                        ),
                        wrong=lambda lives: _wrong_with_ours(url, connection, lives),
                    )
    finally:
        delete_names(names)


_FUND_OURS = """
WITH account AS (
    INSERT INTO credit_accounts (user_id, plan, balance) SELECT u, 'payg', $2
        FROM unnest($1::text[]) AS u
)
INSERT INTO credit_entries (operation, account, amount, kind, reason)
SELECT 'grant:' || u, e.account, e.amount, 'grant', 'for the measurement'
    FROM unnest($1::text[]) AS u,
LATERAL (VALUES ('user:' || u, $2::bigint), ('issued', -$2::bigint)) AS e(account, amount)"""


@contextmanager
def _service(
    url: str, log: Path, parts: Sequence[str], told: Mapping[str, str], source: Path
) -> Iterator[tuple[int, dict[str, str], list[subprocess.Popen[bytes]]]]:
    """`aigen serve` once for each of `parts`; the port and environment of the first, which has the
    API.
    """
    first, *others = parts
    port = free_port()
    environment = service_environment(url, log.parent, port, AIGEN_ROLES=first, **told)
    serve = [sys.executable, "-m", "creativeflow.services.aigeneration", "serve"]
    path = {"PYTHONPATH": str(source / "src")}
    with process(serve, environment | path, log) as running:
        if not others:
            yield port, environment, [running]
            return
        with process(serve, environment | path | {"AIGEN_ROLES": others[0]}, log) as second:
            yield port, environment, [running, second]


async def _wrong_with_ours(url: str, connection: asyncpg.Connection, lives: int) -> list[str]:
    row = await connection.fetchrow(
        """SELECT (SELECT count(*) FROM generation_requests WHERE state = 'COMPLETED') AS completed,
                  (SELECT count(*) FROM generation_requests
                      WHERE state <> 'COMPLETED') AS unfinished,
                  (SELECT COALESCE(sum(amount), 0) FROM credit_entries
                      WHERE account = 'revenue')::bigint AS charged,
                  (SELECT count(*) * $1 - sum(balance) FROM credit_accounts)::bigint AS taken""",
        order.FUNDS,
    )
    books_ = Database(url)
    found = await violations(books_, now())
    await books_.close()
    return [*_differences(dict(row), lives), *found[:5]]


def _differences(row: Mapping[str, int], lives: int) -> list[str]:
    due = {"completed": lives, "charged": lives * CHARGE, "taken": lives * CHARGE}
    return [
        f"{name} is {value}, not {due.get(name, 0)}"
        for name, value in row.items()
        if value != due.get(name, 0)
    ]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's module, and how its database tells that no job is left (None: its last act is the
    event itself).
    """

    module: str
    no_job_left: str | None = None


PEERS = {
    "dbos": Peer(
        "bench.peers.dbos_app",
        "SELECT NOT EXISTS (SELECT FROM dbos.workflow_status WHERE status <> 'SUCCESS')",
    ),
    "celery": Peer("bench.peers.celery_app"),
    "procrastinate": Peer(
        "bench.peers.procrastinate_app",
        "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status <> 'succeeded')",
    ),
}


@asynccontextmanager
async def peer(name: str, log: Path, stub_seconds: float) -> AsyncIterator[Running]:
    """A peer: a process with its API and one with its worker."""
    found, prefix, port = PEERS[name], f"bench.{uuid4().hex[:8]}", free_port()
    try:
        async with empty_database() as url, _connection(url) as connection:
            environment = {
                "PYTHONPATH": f"{SERVICE}:{SERVICE / 'src'}",
                "PEER_DATABASE_URL": url,
                "PEER_RABBITMQ_URL": RABBITMQ,
                "PEER_TOPIC": f"{prefix}.topic",
                "PEER_QUEUE": f"{prefix}.queue",
                "PEER_PORT": str(port),
                "BENCH_STUB_SECONDS": str(stub_seconds),
                "TZ": "UTC",
            }
            start = [str(PEERS_PYTHON), "-m", found.module]
            with process([*start, "prepare"], environment, log) as preparing:
                if preparing.wait(60):
                    raise RuntimeError(f"{name} could not prepare its database")
            await connection.execute(books.SCHEMA)
            await connection.execute(
                books.FUND, [order.user(n) for n in range(order.USERS)], order.FUNDS
            )
            with (
                process([*start, "api"], environment, log) as api,
                process([*start, "worker"], environment, log) as work,
            ):
                await wait_ready(port, api)
                yield Running(
                    port=port,
                    topic=f"{prefix}.topic",
                    database=url,
                    processes=[api.pid, work.pid],
                    stub=[],
                    settled=lambda: _settled(connection, found),
                    wrong=lambda lives: _wrong_with_peer(connection, lives),
                )
    finally:
        _delete(prefix)


async def _settled(connection: asyncpg.Connection, found: Peer) -> bool:
    return found.no_job_left is None or bool(await connection.fetchval(found.no_job_left))


async def _wrong_with_peer(connection: asyncpg.Connection, lives: int) -> list[str]:
    return _differences(dict(await connection.fetchrow(books.EXACT, order.FUNDS)), lives)


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _delete(prefix: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(RABBITMQ))
    channel = connection.channel()
    channel.queue_delete(f"{prefix}.queue")
    for exchange in ("topic", "queue"):
        channel.exchange_delete(f"{prefix}.{exchange}")
    connection.close()


@contextmanager
def process(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and all its children with it: asked first, then
    killed.
    """
    with log.open("ab") as output:
        running = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=SERVICE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = psutil.Process(running.pid).children(recursive=True)
        running.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.wait(_STOP_SECONDS)
        running.kill()
        for left in family:
            with suppress(psutil.Error):
                left.kill()
        running.wait()
