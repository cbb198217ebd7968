"""The connection pool, and the translation of lost connections into one error."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, crashed, starting up, cancelled
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # the driver's protocol broke off half-way
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
    OSError,
)

# Every statement on a request's way finds its rows by an index. The planner does not know that of
# tables which it has never counted, and keeps reading them whole for minutes after they have grown:
# 20 ms of a lifecycle, then 100.
_BY_INDEX = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}

# There is one such way whatever the arguments are, so it is planned once for a connection: planning
# anew for each execution, as the server does where that looks a little cheaper, is a tenth of its
# work for a lifecycle.
_PLANNED_ONCE = {"plan_cache_mode": "force_generic_plan"}

_SESSION = {
    "application_name": "aigen",
    "timezone": "UTC",
    "jit": "off",
    **_BY_INDEX,
    **_PLANNED_ONCE,
}

DELETE_BATCH = 5_000
"""Rows that one statement deletes: its locks and its transaction stay short."""
_BETWEEN_BATCHES_SECONDS = 0.02
_TRIES = 4
"""How often a statement is run that a deadlock or a serialization failure has ended."""
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_READ_ONLY = asyncpg.ReadOnlySQLTransactionError
"""What a server answers to a write when it is a standby, or the former primary after a failover."""


def session_attribute(url: str) -> SessionAttribute | None:
    """Return the attribute of a server that takes writes; None where the URL names another
    attribute itself.

    With several hosts in the URL (`postgresql://user@one:5432,two:5432/name`) they are tried in
    turn.
    """
    return None if "target_session_attrs=" in url else SessionAttribute.read_write


class Database:
    """A bounded pool of connections; `statement_timeout_seconds` bounds every statement."""

    def __init__(
        self, url: str, *, pool_size: int = 10, statement_timeout_seconds: float = 15.0
    ) -> None:
        self._url = url
        self._pool_size = pool_size
        self._timeout_seconds = statement_timeout_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._siblings = [self]

    def sibling(self, *, pool_size: int) -> "Database":
        """Return another pool on the same server: when one of them finds that the server takes no
        writes, all replace their connections.
        """
        made = Database(
            self._url, pool_size=pool_size, statement_timeout_seconds=self._timeout_seconds
        )
        made._siblings = self._siblings
        self._siblings.append(made)
        return made

    async def open(self) -> None:
        """Open the pool.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        async with self._opening:
            if self._pool is not None:
                return
            try:
                pool = await asyncpg.create_pool(
                    self._url,
                    # Else the driver keeps trying by itself while the server is away.
                    min_size=0,
                    max_size=self._pool_size,
                    init=_speak_json,
                    reset=_keep,
                    command_timeout=self._timeout_seconds,
                    timeout=10,
                    server_settings=_SESSION,
                    target_session_attrs=session_attribute(self._url),
                )
                async with pool.acquire(timeout=10):
                    self._pool = pool
            except _LOST as error:
                raise StorageUnavailableError from error

    async def reconnect(self) -> None:
        """Replace all connections as they come back to the pool, because the server they lead to
        takes no writes.
        """
        for database in self._siblings:
            if database._pool is not None:  # noqa: SLF001 - of the same class
                await database._pool.expire_connections()  # noqa: SLF001

    async def close(self) -> None:
        """Close the pool; waits a bounded time for statements under way."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), 10)
            except (TimeoutError, *_LOST):
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection.

        Raises:
            StorageUnavailableError: the connection was lost, the server takes no writes, or a
            conflict ended the
                transaction. The caller may try again.
        """
        try:
            async with self._borrowed() as connection:
                yield connection
        except _CONFLICTS as error:
            raise StorageUnavailableError from error

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            await self.open()
        pool = self._pool
        assert pool is not None  # noqa: S101 - open() either sets it or raises
        try:
            async with pool.acquire(timeout=10) as connection:
                yield connection
        except _READ_ONLY as error:
            # The server was demoted under its connections: all of them are replaced, by such to a
            # server that writes.
            await self.reconnect()
            raise StorageUnavailableError from error
        except _LOST as error:
            raise StorageUnavailableError from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Borrow a connection inside a transaction: committed at the end, rolled back on an
        error.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of one statement."""
        return list(await self._run("fetch", statement, arguments))

    async def fetch_report(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of a report, which reads whole tables and is planned for that."""
        async with self.transaction() as connection:
            for setting in _BY_INDEX:
                await connection.execute(f"SET LOCAL {setting} = on")
            await connection.execute("SET LOCAL plan_cache_mode = auto")
            return list(await connection.fetch(statement, *arguments))

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement, or None."""
        found: asyncpg.Record | None = await self._run("fetchrow", statement, arguments)
        return found

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first value of the first row, or None."""
        return await self._run("fetchval", statement, arguments)

    async def execute(self, statement: str, *arguments: Any) -> str:
        """Run one statement; the answer is PostgreSQL's command tag."""
        return str(await self._run("execute", statement, arguments))

    async def _run(self, how: str, statement: str, arguments: Sequence[Any]) -> Any:
        """Run one statement. It is done whole or not at all, so one that a conflict has ended is
        simply run again.
        """
        for _ in range(_TRIES):
            with suppress(*_CONFLICTS):
                async with self._borrowed() as connection:
                    return await getattr(connection, how)(statement, *arguments)
        raise StorageUnavailableError

    async def execute_counted(self, statement: str, *arguments: Any) -> int:
        """Run one statement; how many rows it wrote or deleted."""
        return int((await self.execute(statement, *arguments)).rpartition(" ")[2])

    async def delete_in_batches(self, statement: str, *arguments: Any) -> int:
        """Run a DELETE of at most `DELETE_BATCH` rows until nothing is left for it; return the
        number of deleted rows. The last parameter of the statement is the limit.
        """
        total = 0
        while True:
            deleted = await self.execute_counted(statement, *arguments, DELETE_BATCH)
            total += deleted
            if deleted < DELETE_BATCH:
                return total
            await asyncio.sleep(_BETWEEN_BATCHES_SECONDS)


def to_json(value: Any) -> str:
    """JSON text for a parameter that the statement casts to jsonb."""
    return orjson.dumps(value).decode()


async def _keep(connection: Any) -> None:
    """Nothing to reset: no statement of ours leaves session state behind, and a reset is a round
    trip each time.
    """


async def _speak_json(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=to_json, decoder=orjson.loads
    )
