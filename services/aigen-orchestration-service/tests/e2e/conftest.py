"""Fixtures of the journeys: HTTP clients whose test acts as dispatcher, worker and relay."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.domain.pricing import PLANS
from creativeflow.services.aigeneration.settings import Settings
from tests.e2e.journey import Caller
from tests.support.app import ServiceUnderTest
from tests.support.databases import a_database_outside
from tests.support.running_system import Parts
from tests.support.services import delete_names, unique_names


@asynccontextmanager
async def calling(test_app: ServiceUnderTest) -> AsyncIterator[Caller]:
    """A client of the application, inside its lifespan."""
    app = create_app(service=test_app.service)
    async with app.router.lifespan_context(app), Caller(app, test_app) as caller:
        yield caller


@pytest.fixture
async def client(test_app: ServiceUnderTest) -> AsyncIterator[Caller]:
    """A client of an open service; the invariants are checked at the end."""
    async with calling(test_app) as caller:
        yield caller


@pytest.fixture
async def make_client(
    make_test_app: Callable[..., ServiceUnderTest], settings: Settings
) -> AsyncIterator[Callable[..., Awaitable[Caller]]]:
    """Return clients of services with other settings on the test's database; checks the invariants
    at the end.
    """
    made: list[Caller] = []
    async with AsyncExitStack() as stack:

        async def make(**changes: object) -> Caller:
            test_app = make_test_app(**validated(settings, changes))
            made.append(await stack.enter_async_context(calling(test_app)))
            return made[-1]

        yield make
        if made:
            await made[-1].test_app.check()


@pytest.fixture(scope="module")
def module_database_url(admin_url: str, template: str) -> Iterator[str]:
    """URL of a database shared by the tests of one module, each of which leaves it unchanged."""
    with a_database_outside(admin_url, "aigen_test", template) as url:
        yield url


@pytest.fixture(scope="module")
async def make_shared(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[..., Awaitable[Caller]]]:
    """Return clients shared by the tests of one module; checks the invariants at the end."""
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        data_dir=tmp_path_factory.mktemp("shared"),
        callback_secret="test-secret-of-enough-length",
        in_flight_limits=dict.fromkeys(PLANS, 1000),
        result_check="stored",
    )
    made: list[Caller] = []
    async with AsyncExitStack() as stack:

        async def make(**changes: object) -> Caller:
            clock = made[0].test_app.clock if made else None
            test_app = ServiceUnderTest(
                module_database_url, settings.model_copy(update=validated(settings, changes)), clock
            )
            stack.push_async_callback(test_app.close)
            made.append(await stack.enter_async_context(calling(test_app)))
            return made[-1]

        yield make
        if made:
            await made[-1].test_app.check()


def validated(settings: Settings, changes: dict[str, object]) -> dict[str, object]:
    """Return changed settings, parsed as from the environment."""
    parsed = Settings(_env_file=None, data_dir=Path(settings.data_dir), **changes)  # type: ignore[arg-type,call-arg]
    return {name: getattr(parsed, name) for name in changes}


@pytest.fixture
def names() -> Iterator[dict[str, str]]:
    """Names of exchanges and queues for this test only."""
    made = unique_names(f"test.{uuid4().hex[:8]}")
    yield made
    delete_names(made)


@pytest.fixture
async def parts(database_url: str, tmp_path: Path, names: dict[str, str]) -> AsyncIterator[Parts]:
    """The parts of the running system; none is started yet."""
    with ExitStack() as stack:
        made = Parts(database_url, tmp_path, stack, names)
        yield made
        await made.client.aclose()
