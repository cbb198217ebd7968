"""Databases of one's own on the server of the tests, dropped afterwards whatever happened in between."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import asyncpg

from services import on_server


@asynccontextmanager
async def a_database(admin_url: str, prefix: str, template: str | None = None) -> AsyncIterator[str]:
    """An empty database, or a copy of `template`; its URL."""
    name = _name(prefix)
    await _execute(admin_url, _create(name, template))
    try:
        yield on_server(admin_url, name)
    finally:
        await _execute(admin_url, _drop(name))


@contextmanager
def a_database_outside(admin_url: str, prefix: str, template: str | None = None) -> Iterator[str]:
    """The same where no event loop runs."""
    name = _name(prefix)
    asyncio.run(_execute(admin_url, _create(name, template)))
    try:
        yield on_server(admin_url, name)
    finally:
        asyncio.run(_execute(admin_url, _drop(name)))


def _name(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex[:12]}"


def _create(name: str, template: str | None) -> str:
    return f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")


def _drop(name: str) -> str:
    return f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
