"""Statements of a request scan no table, even without planner statistics; reports may."""

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


async def counted(test_app: ServiceUnderTest) -> None:
    """Wait until the server has updated its statistics, which takes a second."""
    await asyncio.sleep(1.2)
    for _ in range(12):  # each session reports its reads after its next statement
        await asyncio.gather(
            *(test_app.service.database.fetchval("SELECT pg_sleep(0.02)") for _ in range(6))
        )


async def walked(test_app: ServiceUnderTest, table: str) -> int:
    """Return the number of rows of a table that were read through indexes."""
    await counted(test_app)
    return int(await test_app.database.fetchval(_WALKED, table))


async def rows_read_whole(test_app: ServiceUnderTest) -> dict[str, int]:
    """Return the rows of each table that were read by sequential scans."""
    await counted(test_app)
    return {
        row["relname"]: row["seq_tup_read"]
        for row in await test_app.service.database.fetch(_READ, list(TABLES))
    }


async def test_lifecycle_statements_scan_no_table(test_app: ServiceUnderTest) -> None:
    for number in range(STORED):
        await test_app.grant(f"user-{number}", 125, "payg")
    for number in range(STORED - 1):
        await test_app.submit(f"user-{number}")
    await test_app.dispatch()
    before = await rows_read_whole(test_app)
    last = await test_app.submitted(f"user-{STORED - 1}")
    while test_app.engine.jobs:
        await test_app.deliver(test_app.engine.jobs.popleft())
        await test_app.dispatch()
    await test_app.select(await test_app.look(last))
    done = await test_app.deliver(await test_app.next_job())
    assert done.state is State.COMPLETED
    await test_app.drain()
    after = await rows_read_whole(test_app)
    read = {table: after[table] - before.get(table, 0) for table in after}
    # A scan of one of these tables would read at least STORED rows in each of the 200 deliveries.
    assert all(count < 10 * STORED for count in read.values()), read


async def test_list_from_a_cursor_reads_only_its_page(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app()
    for number in range(STORED):
        await test_app.submit(f"user-{number}")
        test_app.clock.advance(minutes=5)
    await test_app.database.execute(
        "ANALYZE generation_requests"
    )  # a shorter list would not need the index
    middle = test_app.clock() - timedelta(minutes=5 * STORED / 2)
    before = await walked(test_app, "generation_requests")
    page = await test_app.service.queries.page(Filters(created_to=middle), 10)
    assert [request.user_id for request in page] == [
        f"user-{STORED // 2 - nth}" for nth in range(10)
    ]
    assert await walked(test_app, "generation_requests") - before <= len(page) + 1


async def test_outbox_lease_costs_the_same_with_any_backlog(test_app: ServiceUnderTest) -> None:
    await test_app.database.execute(
        """INSERT INTO outbox (request_id, topic, body, due_at, created_at)
           SELECT gen_random_uuid(), 'notification.send', '{}', now(), now()
               FROM generate_series(1, $1)""",
        2 * STORED,
    )
    before = await walked(test_app, "outbox")
    later = test_app.clock() + timedelta(minutes=1)
    leased = await test_app.service.outbox.lease(
        uuid7(),
        most=50,
        now=later,
        lease_for=timedelta(minutes=1),
        topics=["notification.send", "credits.capture"],
    )
    assert len(leased) == 50
    assert await walked(test_app, "outbox") - before <= 10 * len(leased)
    await test_app.database.execute("DELETE FROM outbox")


async def test_report_statements_may_scan_tables(test_app: ServiceUnderTest) -> None:
    await test_app.submit()
    row = (
        await test_app.service.database.fetch_report(
            "SELECT current_setting('enable_hashjoin') AS hash"
        )
    )[0]
    assert row["hash"] == "on"
    assert (
        await test_app.service.database.fetchval("SELECT current_setting('enable_hashjoin')")
        == "off"
    )
