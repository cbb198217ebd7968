"""Processes whose machines have different clocks agree on the time of the database server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.database_clock import DatabaseClock
from tests.support.app import ServiceUnderTest


class _Machine:
    """A machine whose clock is wrong by `ahead`, and whose monotonic clock is right."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead
        self.monotonic_seconds = 0.0

    def local(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return self.monotonic_seconds


@pytest.fixture
async def database(database_url: str) -> Any:
    found = Database(database_url)
    yield found
    await found.close()


@pytest.mark.parametrize("minutes", [-90, 0, 90])
async def test_clock_of_a_wrong_machine_is_the_servers(database: Database, minutes: int) -> None:
    machine = _Machine(timedelta(minutes=minutes))
    shared = DatabaseClock(database, local=machine.local, monotonic=machine.monotonic)
    assert abs(shared() - machine.local()) < timedelta(seconds=5)
    await shared.sync()
    assert abs(shared() - datetime.now(UTC)) < timedelta(seconds=5)
    machine.ahead += timedelta(hours=3)
    machine.monotonic_seconds += 10
    assert abs(shared() - datetime.now(UTC) - timedelta(seconds=10)) < timedelta(seconds=5)
    assert abs(clock.uuid7_time(shared.new_id()) - shared()) < timedelta(seconds=1)


async def test_clock_keeps_the_last_comparison_while_the_server_is_slow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = _Machine(timedelta(0))
    shared = DatabaseClock(database, local=machine.local, monotonic=machine.monotonic)
    await shared.sync()
    before = shared()

    async def slow(_: str) -> datetime:
        machine.monotonic_seconds += 5
        return datetime.now(UTC) + timedelta(hours=1)

    monkeypatch.setattr(database, "fetchval", slow)
    await shared.sync()
    assert shared() - before == timedelta(seconds=5)


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_process_on_a_wrong_machine_leaves_the_leases_of_others_alone(
    database_url: str, settings: Settings, minutes: int
) -> None:
    apps = [ServiceUnderTest(database_url, settings), ServiceUnderTest(database_url, settings)]
    right, wrong = apps
    machine = _Machine(timedelta(minutes=minutes))
    for app, local in ((right, clock.now), (wrong, machine.local)):
        shared = DatabaseClock(app.database, local=local)
        await shared.sync()
        _set_clock(app, shared)
    await right.grant("user", 0, "pro")
    request = await right.submitted()
    leased = (await right.jobs.lease(Stage.SAMPLES, window=10, most=10)).jobs
    await wrong.sweep()
    await wrong.dispatch()
    assert (await right.look(request)).state is State.PUBLISHING_TO_QUEUE
    assert not wrong.engine.published
    await wrong.deliver(leased[0])
    await right.service.relays.step()
    await wrong.service.relays.step()
    assert right.notifier.types() + wrong.notifier.types() == ["samples_ready"]
    for app in apps:
        await app.close()


def _set_clock(app: ServiceUnderTest, shared: DatabaseClock) -> None:
    """Give all parts of a process this clock."""
    service = app.service
    service.runner.now = service.sweeper._now = shared  # noqa: SLF001
    for relay in service.relays.by_destination.values():
        relay._now = shared  # noqa: SLF001
