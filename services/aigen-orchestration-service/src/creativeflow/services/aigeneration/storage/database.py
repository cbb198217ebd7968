"""The connection pool, and the translation of lost connections into one error."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import orjson

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


class Database:
    """A bounded pool of connections; `statement_timeout_seconds` bounds every statement."""

    def __init__(self, url: str, *, pool_size: int = 10, statement_timeout_seconds: float = 15.0) -> None:
        self._url = url
        self._pool_size = pool_size
        self._timeout_seconds = statement_timeout_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Open the pool.

        Raises:
            StorageUnavailableError: the server does not answer.
        """
        async with self._opening:
            if self._pool is not None:
                return
            try:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=1,
                    max_size=self._pool_size,
                    init=_speak_json,
                    reset=_keep,
                    command_timeout=self._timeout_seconds,
                    timeout=10,
                    server_settings={"application_name": "aigen", "timezone": "UTC", "jit": "off"},
                )
            except _LOST as error:
                raise StorageUnavailableError from error

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
        """Borrow a connection; a lost one becomes StorageUnavailableError."""
        if self._pool is None:
            await self.open()
        assert self._pool is not None  # noqa: S101 - open() either sets it or raises
        try:
            async with self._pool.acquire(timeout=10) as connection:
                yield connection
        except _LOST as error:
            raise StorageUnavailableError from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Borrow a connection inside a transaction: committed at the end, rolled back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of one statement."""
        async with self.connection() as connection:
            return list(await connection.fetch(statement, *arguments))

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one statement, or None."""
        async with self.connection() as connection:
            return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first value of the first row, or None."""
        async with self.connection() as connection:
            return await connection.fetchval(statement, *arguments)

    async def execute(self, statement: str, *arguments: Any) -> str:
        """Run one statement; the answer is PostgreSQL's command tag."""
        async with self.connection() as connection:
            return str(await connection.execute(statement, *arguments))

    async def execute_counted(self, statement: str, *arguments: Any) -> int:
        """Run one statement; how many rows it wrote or deleted."""
        return int((await self.execute(statement, *arguments)).rpartition(" ")[2])


def to_json(value: Any) -> str:
    """JSON text for a parameter that the statement casts to jsonb."""
    return orjson.dumps(value).decode()


async def _keep(connection: Any) -> None:
    """Nothing to reset: no statement of ours leaves session state behind, and a reset is a round trip each time."""


async def _speak_json(connection: Any) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=to_json, decoder=orjson.loads)
