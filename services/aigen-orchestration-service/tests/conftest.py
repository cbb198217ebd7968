"""Fixtures of all tests: a database per test, cloned from a migrated template, and the service on
it.
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
    del os.environ[_name]  # settings of the developer's shell must not reach the tests


@pytest.fixture(scope="session")
def admin_url() -> str:
    """URL of a database on the test server, for administration."""
    return database_admin_url()


@pytest.fixture(scope="session")
def template(admin_url: str) -> Iterator[str]:
    """Name of a migrated, empty database."""
    with a_database_outside(admin_url, "aigen_template") as url:
        asyncio.run(migrate(url))
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def copies(admin_url: str, template: str) -> Iterator[Copies]:
    """Databases for tests, created in advance."""
    with Copies(admin_url, "aigen_test", template) as made:
        yield made


@pytest.fixture
def database_url(copies: Copies) -> Iterator[str]:
    """URL of a database for this test only."""
    with copies.one() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Default settings, independent of the environment; pictures are not fetched."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        data_dir=tmp_path,
        callback_secret="test-secret-of-enough-length",
        in_flight_limits=dict.fromkeys(PLANS, 1000),
        result_check="stored",
    )


@pytest.fixture(scope="session")
def complete_billing() -> Iterator[int]:
    """Port of a fake billing adapter with idempotency keys, refunds and look-up."""
    with billing_process(complete=True) as port:
        yield port


@pytest.fixture(scope="session")
def faithful_billing() -> Iterator[int]:
    """Port of a fake billing adapter like the real one: no keys, no refund, no look-up."""
    with billing_process(complete=False) as port:
        yield port


@pytest.fixture
async def make_test_app(
    database_url: str, settings: Settings
) -> AsyncIterator[Callable[..., ServiceUnderTest]]:
    """Factory of service instances on the test database, one per simulated process; all are
    closed at the end.
    """
    test_apps: list[ServiceUnderTest] = []

    def make(
        credits_: Credits | None = None, *, ledger_here: bool = False, **changes: object
    ) -> ServiceUnderTest:
        clock = test_apps[0].clock if test_apps else None
        test_app = ServiceUnderTest(
            database_url,
            settings.model_copy(update=changes),
            clock,
            credits_,
            ledger_here=ledger_here,
        )
        test_apps.append(test_app)
        return test_app

    yield make
    for test_app in test_apps:
        await test_app.close()


@pytest.fixture
async def test_app(
    make_test_app: Callable[..., ServiceUnderTest],
) -> AsyncIterator[ServiceUnderTest]:
    """The service with simulated external systems; checks the invariants after the test."""
    made = make_test_app()
    yield made
    await made.check()
