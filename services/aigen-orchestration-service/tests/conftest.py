"""Fixtures of all tests: a database of one's own, cloned from a migrated template, and the world on
top of it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from creativeflow.services.aigeneration.domain.pricing import PLANS
from creativeflow.services.aigeneration.ports import Credits
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import migrate
from tests.support.app import ServiceUnderTest
from tests.support.databases import Copies, a_database_outside
from tests.support.fake_billing_client import billing_process
from tests.support.services import database_admin_url

for _name in [
    name for name in os.environ if name.startswith("AIGEN_") and not name.startswith("AIGEN_TEST_")
]:
    del os.environ[
        _name
    ]  # what a developer has set for a service of their own must not reach the tests


@pytest.fixture(scope="session")
def admin_url() -> str:
    """A database on the server of the tests."""
    return database_admin_url()


@pytest.fixture(scope="session")
def template(admin_url: str) -> Iterator[str]:
    """The name of a migrated, empty database."""
    with a_database_outside(admin_url, "aigen_template") as url:
        asyncio.run(migrate(url))
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def copies(admin_url: str, template: str) -> Iterator[Copies]:
    """Databases for tests, made ahead."""
    with Copies(admin_url, "aigen_test", template) as made:
        yield made


@pytest.fixture
def database_url(copies: Copies) -> Iterator[str]:
    """A database of the test's own."""
    with copies.one() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The defaults, away from the environment; the invented addresses of pictures are not
    fetched.
    """
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        data_dir=tmp_path,
        callback_secret="test-secret-of-enough-length",
        in_flight_limits=dict.fromkeys(PLANS, 1000),
        result_check="stored",
    )


@pytest.fixture(scope="session")
def complete_billing() -> Iterator[int]:
    """The port of a billing adapter that honours keys, refunds and looks up."""
    with billing_process(complete=True) as port:
        yield port


@pytest.fixture(scope="session")
def faithful_billing() -> Iterator[int]:
    """The port of a billing adapter as it really is: no memory, no refund, no look-up."""
    with billing_process(complete=False) as port:
        yield port


@pytest.fixture
async def make_world(
    database_url: str, settings: Settings
) -> AsyncIterator[Callable[..., ServiceUnderTest]]:
    """Makes worlds on the test's database; several are several processes. All are checked and
    closed at the end.
    """
    worlds: list[ServiceUnderTest] = []

    def make(
        credits_: Credits | None = None, *, ledger_here: bool = False, **changes: object
    ) -> ServiceUnderTest:
        clock = worlds[0].clock if worlds else None
        world = ServiceUnderTest(
            database_url,
            settings.model_copy(update=changes),
            clock,
            credits_,
            ledger_here=ledger_here,
        )
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.close()


@pytest.fixture
async def world(make_world: Callable[..., ServiceUnderTest]) -> AsyncIterator[ServiceUnderTest]:
    """The service with simulated foreign parts; the invariants are asked when the test is over."""
    made = make_world()
    yield made
    await made.check()
