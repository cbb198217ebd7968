"""Fixtures of the browser tests: one Chromium and one service for all, a visit for each test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.async_api import Browser

from tests.support.databases import a_database_outside
from tests.support.studio_browser import Visit, chromium_running, serving


@pytest.fixture(scope="session")
def studio_database(admin_url: str, template: str) -> Iterator[str]:
    """A database for all browser tests; each has a user of its own."""
    with a_database_outside(admin_url, "aigen_test", template) as url:
        yield url


@pytest.fixture(scope="session")
def studio_address(studio_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real service."""
    folder: Path = tmp_path_factory.mktemp("studio")
    with serving(studio_database, folder) as address:
        yield address


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A real Chromium."""
    async with chromium_running() as running:
        yield running


@pytest.fixture
async def visiting(
    browser: Browser, studio_address: str
) -> AsyncIterator[Callable[..., Awaitable[Visit]]]:
    """Begins visits; whatever a test does, its pages complain of nothing and call nobody else."""
    visits: list[Visit] = []

    async def begin(**context: object) -> Visit:
        made = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        visits.append(Visit(made, studio_address, f"user-{uuid4().hex[:8]}"))
        await visits[-1].begin()
        return visits[-1]

    yield begin
    for visit in visits:
        complaints, strangers = visit.seen.complaints, visit.seen.strangers(studio_address)
        await visit.end()
        assert complaints == []
        assert strangers <= set()


@pytest.fixture
async def visit(visiting: Callable[..., Awaitable[Visit]]) -> Visit:
    """A visit of somebody with ten credits, who pays as they go."""
    made = await visiting()
    await made.grant("10.00")
    return made
