"""Fixtures of the browser tests: one Chromium and one service per session, one visit per test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.async_api import Browser

from tests.support.databases import a_database_outside
from tests.support.studio_browser import Visit, running_chromium, running_service


@pytest.fixture(scope="session")
def studio_database(admin_url: str, template: str) -> Iterator[str]:
    """A database shared by all browser tests; every visit has its own user."""
    with a_database_outside(admin_url, "aigen_test", template) as url:
        yield url


@pytest.fixture(scope="session")
def studio_address(studio_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running service."""
    folder: Path = tmp_path_factory.mktemp("studio")
    with running_service(studio_database, folder) as address:
        yield address


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A running Chromium."""
    async with running_chromium() as running:
        yield running


@pytest.fixture
async def start_visit(
    browser: Browser, studio_address: str
) -> AsyncIterator[Callable[..., Awaitable[Visit]]]:
    """Start visits; at the end no page may have logged a problem or called a foreign host."""
    visits: list[Visit] = []

    async def begin(**context: object) -> Visit:
        made = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        visits.append(Visit(made, studio_address, f"user-{uuid4().hex[:8]}"))
        await visits[-1].begin()
        return visits[-1]

    yield begin
    for visit in visits:
        problems, foreign_hosts = visit.log.problems, visit.log.foreign_hosts(studio_address)
        await visit.close()
        assert problems == []
        assert foreign_hosts == set()


@pytest.fixture
async def visit(start_visit: Callable[..., Awaitable[Visit]]) -> Visit:
    """A visit of a user on the payg plan with ten credits."""
    made = await start_visit()
    await made.grant("10.00")
    return made
