"""Nothing on a request's way reads a whole table, though the planner has never counted it; reports
may.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.kit.clock import uuid7
from creativeflow.services.aigeneration.storage.queries import Filters
from tests.support.app import ServiceUnderTest

STORED = 200
TABLES = (
    "generation_requests",
    "holds",
    "credit_accounts",
    "credit_entries",
    "idempotency_keys",
    "usage_log",
)
_WALKED = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = $1"
_READ = """SELECT relname, seq_tup_read FROM pg_stat_user_tables
           WHERE relname = ANY($1) OR relname LIKE 'generation\\_events%'"""


async def counted(world: ServiceUnderTest) -> None:
    """Until the server has counted what was read; it does so with a second's delay."""
    await asyncio.sleep(1.2)
    for _ in range(12):  # each session tells what it has read after its next statement
        await asyncio.gather(
            *(world.service.database.fetchval("SELECT pg_sleep(0.02)") for _ in range(6))
        )


async def walked(world: ServiceUnderTest, table: str) -> int:
    """How many rows of a table indexes have led to."""
    await counted(world)
    return int(await world.database.fetchval(_WALKED, table))


async def rows_read_whole(world: ServiceUnderTest) -> dict[str, int]:
    """How many rows each table has given to sequential scans."""
    await counted(world)
    return {
        row["relname"]: row["seq_tup_read"]
        for row in await world.service.database.fetch(_READ, list(TABLES))
    }


async def test_a_lifecycle_reads_no_table_whole(world: ServiceUnderTest) -> None:
    for number in range(STORED):
        await world.grant(f"user-{number}", 125, "payg")
    for number in range(STORED - 1):
        await world.submit(f"user-{number}")
    await world.dispatch()
    before = await rows_read_whole(world)
    last = await world.submitted(f"user-{STORED - 1}")
    while world.engine.jobs:
        await world.deliver(world.engine.jobs.popleft())
        await world.dispatch()
    await world.select(await world.look(last))
    done = await world.deliver(await world.next_job())
    assert done.state is State.COMPLETED
    await world.drain()
    after = await rows_read_whole(world)
    read = {table: after[table] - before.get(table, 0) for table in after}
    # A scan of one of these tables reads at least STORED rows, and every one of 200 deliveries
    # would scan.
    assert all(count < 10 * STORED for count in read.values()), read


async def test_a_list_that_begins_in_the_middle_does_not_walk_there(
    make_world: Callable[..., ServiceUnderTest],
) -> None:
    world = make_world()
    for number in range(STORED):
        await world.submit(f"user-{number}")
        world.clock.advance(minutes=5)
    await world.database.execute(
        "ANALYZE generation_requests"
    )  # a list this short is not worth a walk otherwise
    middle = world.clock() - timedelta(minutes=5 * STORED / 2)
    before = await walked(world, "generation_requests")
    page = await world.service.queries.page(Filters(created_to=middle), 10)
    assert [request.user_id for request in page] == [
        f"user-{STORED // 2 - nth}" for nth in range(10)
    ]
    assert await walked(world, "generation_requests") - before <= len(page) + 1


async def test_a_lease_of_messages_costs_the_same_in_any_backlog(world: ServiceUnderTest) -> None:
    await world.database.execute(
        """INSERT INTO outbox (request_id, topic, body, due_at, created_at)
           SELECT gen_random_uuid(), 'notification.send', '{}', now(), now()
               FROM generate_series(1, $1)""",
        2 * STORED,
    )
    before = await walked(world, "outbox")
    later = world.clock() + timedelta(minutes=1)
    leased = await world.service.outbox.lease(
        uuid7(),
        most=50,
        now=later,
        lease_for=timedelta(minutes=1),
        topics=["notification.send", "credits.capture"],
    )
    assert len(leased) == 50
    assert await walked(world, "outbox") - before <= 10 * len(leased)
    await world.database.execute("DELETE FROM outbox")


async def test_a_report_may_read_whole_tables(world: ServiceUnderTest) -> None:
    await world.submit()
    row = (
        await world.service.database.fetch_report(
            "SELECT current_setting('enable_hashjoin') AS hash"
        )
    )[0]
    assert row["hash"] == "on"
    assert (
        await world.service.database.fetchval("SELECT current_setting('enable_hashjoin')") == "off"
    )
