"""The schema's history, and how a database is brought to its end."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from creativeflow.services.aigeneration.storage.database import session_attribute

_ATTEMPTS = 5
_LOCKED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


def head() -> str:
    """The newest revision."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None  # noqa: S101 - there is at least one revision
    return found


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the database to a revision; safe while others serve, and when several start at once.

    A lock that is not granted within seconds is given up and asked for again, so that a migration
    never stands before a queue of waiting statements for long.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _upgrade(url, revision)
        except Exception as error:
            if attempt == _ATTEMPTS or not isinstance(_origin(error), _LOCKED):
                raise
            await asyncio.sleep(attempt)
        else:
            return


def statements(text: str) -> Iterator[str]:
    """The single statements of an SQL text; a `;` between `$$` belongs to a function."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if line.rstrip().endswith(";") and statement.count("$$") % 2 == 0:
            yield statement
            statement = ""


async def _upgrade(url: str, revision: str) -> None:
    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        settings = {"lock_timeout": "5s", "timezone": "UTC"}
        return await asyncpg.connect(
            url, server_settings=settings, target_session_attrs=session_attribute(url)
        )

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run, revision)
    finally:
        await engine.dispose()


def _run(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _origin(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
