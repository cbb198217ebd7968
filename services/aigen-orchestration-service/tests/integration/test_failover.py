"""A failover of PostgreSQL under load, with a streaming standby: no accepted request is lost,
writes resume.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import migrate
from tests.support.app import ServiceUnderTest
from tests.support.servers import PostgresServer, StandbyPostgres, primary_and_standby

BACK_SECONDS = 15.0


@pytest.fixture
async def servers() -> AsyncIterator[tuple[PostgresServer, StandbyPostgres]]:
    async with primary_and_standby() as both:
        yield both


@pytest.fixture
async def test_app(
    servers: tuple[PostgresServer, StandbyPostgres], settings: Settings
) -> AsyncIterator[ServiceUnderTest]:
    primary, standby = servers
    url = f"postgresql://postgres@{primary.address},{standby.address}/postgres"
    await migrate(url)
    made = ServiceUnderTest(url, settings, ledger_here=True)
    yield made
    await made.close()


async def accepted_over(
    test_app: ServiceUnderTest,
    accepted: list[UUID],
    stop: asyncio.Event,
    unexpected: list[Exception],
) -> None:
    """Submit until stopped; record what was accepted, and every error except 503."""
    while not stop.is_set():
        try:
            reply = await test_app.submit("user")
        except errors.ServiceUnavailableError:
            await asyncio.sleep(0.05)
        except Exception as error:  # noqa: BLE001 - asserted by the test
            unexpected.append(error)
            await asyncio.sleep(0.05)
        else:
            assert reply.request is not None
            accepted.append(reply.request.id)


async def has_come_back(accepted: list[UUID]) -> float:
    """Return the seconds until a request is accepted again."""
    began, before = time.monotonic(), len(accepted)
    async with asyncio.timeout(BACK_SECONDS + 5):
        while len(accepted) < before + 5:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["killed", "demoted"])
async def test_failover_lost_or_demoted_primary_is_replaced_by_the_standby(
    servers: tuple[PostgresServer, StandbyPostgres], test_app: ServiceUnderTest, how: str
) -> None:
    primary, standby = servers
    await test_app.grant("user", 10_000_000, plan="payg")
    accepted: list[UUID] = []
    unexpected: list[Exception] = []
    stop = asyncio.Event()
    load = [
        asyncio.create_task(accepted_over(test_app, accepted, stop, unexpected)) for _ in range(8)
    ]
    await has_come_back(accepted)
    assert (await test_app.service.health.checks())["database"]["ok"]
    if how == "killed":
        await primary.kill()
    else:  # its connections stay open, and every write on them fails
        await primary.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await primary.execute("SELECT pg_reload_conf()")
    await standby.promote()
    seconds = await has_come_back(accepted)
    stop.set()
    await asyncio.gather(*load)
    assert seconds <= BACK_SECONDS
    assert unexpected == []
    assert (await test_app.service.health.checks())["database"]["ok"]
    stored = {
        row["id"] for row in await test_app.database.fetch("SELECT id FROM generation_requests")
    }
    assert set(accepted) <= stored
    assert len(accepted) == len(set(accepted))
    await test_app.check(drained=False)


async def test_ready_on_a_read_only_server_is_503_with_the_reason(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await test_app.database.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(10):
        while (await test_app.service.health.checks())["database"]["ok"]:
            await asyncio.sleep(0.05)
    with pytest.raises(errors.ServiceUnavailableError):
        await test_app.submit("user")
