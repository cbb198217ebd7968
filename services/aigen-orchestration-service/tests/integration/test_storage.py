"""The database's own constraints and triggers, and the history of the schema."""

import asyncio
import os
import re
import sys
from uuid import uuid4

import asyncpg
import pytest

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL, WITH_JOB, State
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.group_commit import GroupCommit
from creativeflow.services.aigeneration.storage.migrations import head, migrate
from creativeflow.services.aigeneration.storage.queries import Filters
from tests.support.app import ServiceUnderTest
from tests.support.services import on_server


async def migrate_in_a_process(url: str) -> None:
    """Run `aigen migrate` in a second process."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "creativeflow.services.aigeneration",
        "migrate",
        env=os.environ | {"AIGEN_DATABASE_URL": url},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await running.wait() == 0


async def test_database_refuses_changes_of_a_terminal_state(test_app: ServiceUnderTest) -> None:
    request = await test_app.submitted()
    await test_app.cancel(request)
    for state in State:
        with pytest.raises(asyncpg.CheckViolationError, match="CANCELLED and stays so"):
            await test_app.database.execute(
                "UPDATE generation_requests SET state = $2 WHERE id = $1", request.id, state
            )


async def test_database_refuses_resolving_a_hold_twice(test_app: ServiceUnderTest) -> None:
    await test_app.grant("user", 100, "payg")
    request = await test_app.with_samples()
    key = request.holds[0].key
    for state in ("released", "held", "placing", "refused"):
        with pytest.raises(asyncpg.CheckViolationError, match="cannot go from captured"):
            await test_app.database.execute(
                "UPDATE holds SET state = $2 WHERE key = $1", key, state
            )


async def test_database_ledger_is_append_only_and_never_negative(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.grant("user", 100, "payg")
    for statement in ("UPDATE credit_entries SET amount = 1", "DELETE FROM credit_entries"):
        with pytest.raises(asyncpg.CheckViolationError, match="never changed or deleted"):
            await test_app.database.execute(statement)
    with pytest.raises(asyncpg.CheckViolationError):
        await test_app.database.execute("UPDATE credit_accounts SET balance = -1")


async def test_database_constraints_match_the_states(test_app: ServiceUnderTest) -> None:
    definitions = {
        row["conname"]: set(re.findall(r"'([A-Z_]+)'", row["definition"]))
        for row in await test_app.database.fetch(
            """SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
               WHERE conrelid = 'generation_requests'::regclass AND contype = 'c'"""
        )
    }
    assert definitions["generation_requests_state_is_known"] == {state.value for state in State}
    assert definitions["generation_requests_live_has_deadline"] == {
        state.value for state in TERMINAL
    }
    trigger = await test_app.database.fetchval(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname ="
        " 'generation_requests_terminal_is_final'"
    )
    assert set(re.findall(r"'([A-Z_]+)'", trigger)) == {state.value for state in TERMINAL}
    index = await test_app.database.fetchval(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'generation_requests_share'"
    )
    assert set(re.findall(r"'([A-Z_]+)'", index)) == {state.value for state in WITH_JOB}


async def test_migrate_from_every_earlier_revision_succeeds(admin_url: str) -> None:
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    from creativeflow.services.aigeneration.storage import migrations  # noqa: PLC0415

    revisions = [
        found.revision for found in ScriptDirectory(migrations.__path__[0]).walk_revisions()
    ]
    assert head() in revisions
    for revision in revisions:
        name = f"aigen_revision_{uuid4().hex[:8]}"
        url = on_server(admin_url, name)
        connection = await asyncpg.connect(admin_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
            await migrate(url, revision)
            await asyncio.gather(*(migrate_in_a_process(url) for _ in range(3)))
            database = Database(url, pool_size=2)
            assert await database.fetchval("SELECT version_num FROM alembic_version") == head()
            await database.close()
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.close()


async def test_migrate_while_serving_delays_no_call(
    test_app: ServiceUnderTest, database_url: str
) -> None:
    async def serve() -> None:
        for n in range(20):
            await test_app.with_samples(f"user{n}")

    await asyncio.gather(serve(), *(migrate_in_a_process(database_url) for _ in range(4)))
    assert len(await test_app.service.queries.page(Filters(), 100)) == 20


async def test_group_commit_failed_batch_fails_only_the_invalid_item() -> None:
    batches = []

    async def write(items: list[int]) -> list[int]:
        batches.append(list(items))
        await asyncio.sleep(0)
        if 13 in items:
            raise ValueError("13")
        return [item * 2 for item in items]

    batcher = GroupCommit(write, key=lambda item: item, max_size=50, max_concurrent=1)
    told = await asyncio.gather(*(batcher.submit(n) for n in range(20)), return_exceptions=True)
    assert [n for n, outcome in enumerate(told) if isinstance(outcome, ValueError)] == [13]
    assert [outcome for outcome in told if isinstance(outcome, int)] == [
        n * 2 for n in range(20) if n != 13
    ]
    assert max(len(batch) for batch in batches) > 1


async def test_group_commit_batch_with_unknown_outcome_is_not_repeated() -> None:
    batches = []

    async def write(items: list[int]) -> list[int]:
        batches.append(list(items))
        raise StorageUnavailableError

    batcher = GroupCommit(write, key=lambda item: item, max_size=50, max_concurrent=1)
    told = await asyncio.gather(*(batcher.submit(n) for n in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, StorageUnavailableError) for outcome in told)
    assert sorted(item for batch in batches for item in batch) == list(range(20))


async def test_group_commit_batch_has_one_item_per_key_and_loses_none() -> None:
    async def write(items: list[tuple[int, int]]) -> list[tuple[int, int]]:
        assert len({key for key, _ in items}) == len(items)
        await asyncio.sleep(0)
        return items

    batcher = GroupCommit(write, key=lambda item: item[0], max_size=8, max_concurrent=2)
    for _ in range(50):
        items = [(n % 7, n) for n in range(30)]
        assert (
            await asyncio.wait_for(asyncio.gather(*(batcher.submit(item) for item in items)), 5)
            == items
        )


async def test_database_unavailable_is_one_error() -> None:
    database = Database("postgresql://postgres@127.0.0.1:1/none", pool_size=2)
    with pytest.raises(StorageUnavailableError):
        await database.fetchval("SELECT 1")
    await database.close()


async def test_list_pages_return_every_request_once(test_app: ServiceUnderTest) -> None:
    made = [await test_app.submitted(f"user{n % 3}") for n in range(10)]
    seen = []
    before = None
    while page := await test_app.service.queries.page(Filters(before=before), 3):
        seen += [request.id for request in page]
        before = page[-1].id
    assert seen == sorted((request.id for request in made), reverse=True)
    mine = await test_app.service.queries.page(Filters(user_id="user1", states=("PENDING",)), 100)
    assert len(mine) == 3


async def test_database_statement_ended_by_a_deadlock_is_repeated(
    test_app: ServiceUnderTest, database_url: str
) -> None:
    for user in ("a", "b"):
        await test_app.grant(user, 100, "payg")
    ours = Database(database_url, pool_size=1)
    await ours.execute("SET deadlock_timeout = '500ms'")
    theirs = await asyncpg.connect(database_url)
    change = "UPDATE credit_accounts SET status = status WHERE user_id = $1"
    try:
        transaction = theirs.transaction()
        await transaction.start()
        await theirs.execute("SET LOCAL deadlock_timeout = '20s'")
        await theirs.execute(change, "a")
        both = asyncio.create_task(
            ours.fetch("""WITH b AS MATERIALIZED (SELECT user_id FROM credit_accounts
                    WHERE user_id = 'b' FOR UPDATE)
                   UPDATE credit_accounts c SET status = c.status FROM b WHERE c.user_id
                       IN ('a', 'b')
                   RETURNING c.user_id""")
        )
        await asyncio.sleep(0.2)  # it has locked b and waits for a
        await theirs.execute(change, "b")
        await transaction.commit()
        assert sorted(row["user_id"] for row in await asyncio.wait_for(both, 10)) == ["a", "b"]
    finally:
        await theirs.close()
        await ours.close()
