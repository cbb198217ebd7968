"""Databases of one's own on the server of the tests, dropped afterwards whatever happened in between."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Self
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


class Copies:
    """Copies of a template for one test after the other, each made while the test before it runs.

    Making and dropping one takes longer than most tests. What could not be made or dropped is told at the latest when
    the last one has been.
    """

    def __init__(self, admin_url: str, prefix: str, template: str) -> None:
        self._admin_url = admin_url
        self._prefix = prefix
        self._template = template
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="copies")
        self._dropped: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._next = self._ahead()
        return self

    def __exit__(self, *told: object) -> None:
        self._drop(self._next.result())
        self._threads.shutdown()
        for dropped in self._dropped:
            dropped.result()

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of a copy nobody has used; it is dropped afterwards."""
        made, self._next = self._next, self._ahead()
        name = made.result()
        try:
            yield on_server(self._admin_url, name)
        finally:
            self._drop(name)

    def _ahead(self) -> Future[str]:
        name = _name(self._prefix)

        def make() -> str:
            asyncio.run(_execute(self._admin_url, _create(name, self._template)))
            return name

        return self._threads.submit(make)

    def _drop(self, name: str) -> None:
        self._dropped.append(self._threads.submit(asyncio.run, _execute(self._admin_url, _drop(name))))


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
