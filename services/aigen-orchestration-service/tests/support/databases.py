"""Temporary databases on the test server, dropped afterwards in any case."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Self
from uuid import uuid4

import asyncpg

from tests.support.services import on_server


@asynccontextmanager
async def a_database(
    admin_url: str, prefix: str, template: str | None = None
) -> AsyncIterator[str]:
    """Create an empty database, or a copy of `template`; yield its URL."""
    name = _name(prefix)
    await _execute(admin_url, _create(name, template))
    try:
        yield on_server(admin_url, name)
    finally:
        await _execute(admin_url, _drop(name))


@contextmanager
def a_database_outside(admin_url: str, prefix: str, template: str | None = None) -> Iterator[str]:
    """The same for code without an event loop."""
    name = _name(prefix)
    asyncio.run(_execute(admin_url, _create(name, template)))
    try:
        yield on_server(admin_url, name)
    finally:
        asyncio.run(_execute(admin_url, _drop(name)))


class Copies:
    """Copies of a template, each created while the previous test runs, because that takes longer
    than most tests.

    Errors of creating and dropping are raised at the latest by the last copy.
    """

    def __init__(self, admin_url: str, prefix: str, template: str) -> None:
        self._what = (admin_url, prefix, template)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="copies")
        self._dropped: list[Future[bool | None]] = []

    def __enter__(self) -> Self:
        self._next = self._ahead()
        return self

    def __exit__(self, *told: object) -> None:
        self._drop(*self._next)
        self._threads.shutdown()
        for dropped in self._dropped:
            dropped.result()

    @contextmanager
    def one(self) -> Iterator[str]:
        """Yield the URL of an unused copy; drop it afterwards."""
        (copy, made), self._next = self._next, self._ahead()
        try:
            yield made.result()
        finally:
            self._drop(copy, made)

    def _ahead(self) -> tuple[AbstractContextManager[str], Future[str]]:
        copy = a_database_outside(*self._what)
        return copy, self._threads.submit(copy.__enter__)

    def _drop(self, copy: AbstractContextManager[str], made: Future[str]) -> None:
        made.result()
        self._dropped.append(self._threads.submit(copy.__exit__, None, None, None))


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
